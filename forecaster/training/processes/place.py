"""Where this process stands among those that train together.

Knows what a launcher such as torchrun tells a process; imports no torch, so that it can be asked before anything else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from forecaster.config import TrainerConfig, require
from forecaster.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One process of those that train together.

    Args:
        rank: 0 for the first, which alone talks to MLflow, writes lines and registers.
        size: of the processes.
        local_rank: among those of this machine.
        local_size: those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    @property
    def nodes(self) -> int:
        """The machines."""
        return self.size // self.local_size


ALONE = Place()
_VARIABLES = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}


def launched(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that a launcher such as torchrun gave this process; None if it was started like any other."""
    if not all(name in environment for name in _VARIABLES.values()):
        return None
    return Place(**{field: int(environment[name]) for field, name in _VARIABLES.items()})


def place_of(trainer: TrainerConfig, environment: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place: the launcher's, or the first of those that it is to start by itself.

    Raises ConfigError if the configuration contradicts the launcher, or needs one.
    """
    place = launched(environment)
    if place is None:
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes} needs a launcher: start it by torchrun on every machine"
            )
        return Place(size=trainer.devices, local_size=trainer.devices)
    asked = ("devices", place.local_size), ("num_nodes", place.nodes)
    for name, given in asked:
        value = getattr(trainer, name)
        require(value in (1, given), f"trainer.{name}", value, f"{given}, as the launcher says, or leave it out")
    return place
