"""The search for a better configuration."""

from dataclasses import dataclass, field
from typing import Any

from forecaster.config.checks import require, require_types


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """The search for a better configuration.

    Args:
        trials: how many the study shall have in all; 0 leaves the configuration as it is.
        space: for each option, such as `model.hidden_size` or `training.learning_rate`, a list of choices, or a range
            {low: 1.0e-3, high: 3.0e-2, log: true}, whole numbers if low and high are.
        study: its name; the same name goes on with the same study.
        storage: a journal file, or a database's URL that several machines can share; left out, a journal file beside
            the data set.
        startup_trials: trials before any is cut short for being worse than the median.
    """

    trials: int = 0
    space: dict[str, Any] = field(default_factory=dict)
    study: str = "forecaster"
    storage: str | None = None
    startup_trials: int = 5

    def __post_init__(self) -> None:
        require_types(self, "tuning")
        require(self.trials >= 0, "tuning.trials", self.trials, "0 or more")
        require(self.startup_trials >= 1, "tuning.startup_trials", self.startup_trials, "1 or more")
        require(self.trials == 0 or bool(self.space), "tuning.space", self.space, "one option or more")
