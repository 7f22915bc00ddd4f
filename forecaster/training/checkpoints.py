"""A training's checkpoints: where they lie, which one to continue from, and the model in the best one.

Knows what Lightning writes; knows nothing of how it trains.
"""

import contextlib
import pathlib
import pickle
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from forecaster.config import TrainingConfig
from forecaster.errors import CheckpointError, ConfigError
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.processes.ranks import Group

BEST, LAST = "best", "last"
ORIGIN = "forecaster"  # a checkpoint's entry that says what it was made of


@contextlib.contextmanager
def checkpoint_folder(settings: TrainingConfig, group: Group) -> Iterator[pathlib.Path]:
    """Give the checkpoints' folder; without a configured one it lives as long as the training."""
    if settings.checkpoint_dir is not None:
        folder = pathlib.Path(settings.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="forecaster-")) if group.place.is_first else ""
        yield pathlib.Path(group.from_first(name))


def best_model(path: pathlib.Path, trained: Seq2Seq) -> Seq2Seq:
    """Return the averaged weights of a checkpoint in a fresh model; raises ConfigError if they diverged."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    best = Seq2Seq(trained.config, trained.step_us, trained.covariates)
    best.load_state_dict({name.removeprefix("model."): x for name, x in checkpoint["state_dict"].items()})
    if not all(torch.isfinite(weights).all() for weights in best.state_dict().values()):
        raise ConfigError("the training diverged: lower --training.learning_rate")
    return best.eval()


def checkpoint_to_resume(
    folder: pathlib.Path, settings: TrainingConfig, origin: dict[str, Any], group: Group
) -> pathlib.Path | None:
    """Return the checkpoint to continue from, or None after removing those of an earlier training.

    Raises CheckpointError if it is torn, or another training's.
    """
    return group.from_first(_found(folder, settings, origin) if group.place.is_first else None)


def _found(folder: pathlib.Path, settings: TrainingConfig, origin: dict[str, Any]) -> pathlib.Path | None:
    last = folder / f"{LAST}.ckpt"
    if not settings.resume:
        for name in (BEST, LAST):
            (folder / f"{name}.ckpt").unlink(missing_ok=True)
        return None
    if not last.exists():
        return None
    try:
        made_of = torch.load(last, map_location="cpu", weights_only=True)[ORIGIN]
    except (OSError, RuntimeError, LookupError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"training.resume: {last} is not a whole checkpoint of a training") from error
    if other := [name for name in origin if origin[name] != made_of.get(name)]:
        raise CheckpointError(
            f"training.resume: {last} was made with another {' and '.join(other)}; train without --training.resume"
        )
    return last
