"""The step `train` on a Ray cluster: `python -P -m pipelines.training.ray --config x.yaml --workers 4 --address auto`.

Its workers take the places that torchrun's processes would have; what each does is `train`. Needs the extra `ray`, the
package and the same paths (data set, MLflow's store, checkpoints) on every machine.

Knows Ray's trainer; knows nothing of how a model is trained.
"""

import dataclasses
import datetime as dt
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from forecaster.arguments import add_config_arguments, add_until, command_parser, parse, read_config, read_until, run
from forecaster.config import Config, require
from forecaster.errors import ConfigError, ForecasterError, UnavailableError
from forecaster.registry import registry
from forecaster.registry.registry import RegisteredModel
from forecaster.registry.store_uri import artifact_location, sqlite_path, sqlite_uri
from pipelines.context import Context

_SECTIONS = ("data", "ingest", "model", "training", "tracking", "backtest")


def train_ray(
    config: Config, *, workers: int, address: str | None = None, until: dt.datetime | None = None
) -> RegisteredModel:
    """Train in several of Ray's workers, each with series of its own, and register the challenger once.

    Args:
        config: as for `train`; `training.device` says whether each worker gets a GPU.
        workers: processes, wherever Ray puts them.
        address: of the cluster, auto for the one of this machine; left out, one is started for this training.
        until: as for `train`.

    Returns:
        The challenger.

    Raises:
        ConfigError: Ray is not installed, or there are no workers.
        UnavailableError: a worker failed; the message is its own.
    """
    require(workers >= 1, "workers", workers, "1 or more")
    # The cluster's workers run the same interpreter; `uv run` around this one would otherwise be started for each.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'ray[train]'") from error
    ours = not ray.is_initialized()
    if ours:
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        ray.init(address=address, runtime_env=paths)
    on_gpu = config.training.device == "cuda"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": _absolute(config), "until": until},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        run_config=RunConfig(storage_path=str(_folder(config) / "ray")),
    )
    try:
        trainer.fit()
    except ray.train.base_trainer.TrainingFailedError as error:
        raise UnavailableError(f"a worker of Ray failed: {_reason(error)}") from error
    finally:
        if ours:
            ray.shutdown()
    return registry.resolve(config.tracking, registry.CHALLENGER)


def _work(settings: dict[str, Any]) -> None:
    """Be one of Ray's workers; the first one registers the challenger."""
    from pipelines.training.step import train

    train(settings["config"], until=settings["until"], context=Context(trigger="ray"))


def _absolute(config: Config) -> Config:
    """Return the configuration with whole paths: Ray's workers run in a folder of their own."""
    tracking, store = config.tracking, sqlite_path(config.tracking.uri)
    uri, artifacts = tracking.uri, tracking.artifacts
    if store is not None:
        uri = sqlite_uri(store)
    elif uri.startswith("file:") and not uri.startswith("file:/"):
        uri = pathlib.Path(uri.removeprefix("file:")).resolve().as_uri()
    if artifacts is not None:
        artifacts = artifact_location(tracking)
    checkpoints = config.training.checkpoint_dir
    if checkpoints is not None:
        checkpoints = str(pathlib.Path(checkpoints).resolve())
    return dataclasses.replace(
        config,
        tracking=dataclasses.replace(tracking, uri=uri, artifacts=artifacts),
        training=dataclasses.replace(config.training, checkpoint_dir=checkpoints),
        ingest=dataclasses.replace(config.ingest, output=str(pathlib.Path(config.ingest.output).resolve())),
    )


def _folder(config: Config) -> pathlib.Path:
    output = pathlib.Path(config.ingest.output).resolve()
    return output.with_name(f"{output.name}-checkpoints")


def _reason(error: BaseException) -> str:
    """Return the last line of the error that a worker failed with."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next((failure for failure in failures.values() if isinstance(failure, ForecasterError)), None)
    found = first or next(iter(failures.values()), error)
    return (str(found).strip().splitlines() or [type(found).__name__])[-1]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, help="processes, wherever Ray puts them")
    parser.add_argument("--address", type=str, metavar="HOST:PORT", help="the cluster's; left out, one is started here")


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say and return the exit code."""

    def chosen() -> int:
        usage = "python -P -m pipelines.training.ray [-h] [--config FILE] [options]"
        parser = command_parser("train a challenger on a Ray cluster", usage=usage)
        _add_arguments(parser)
        add_until(parser)
        add_config_arguments(parser, _SECTIONS)
        arguments = parse(parser, argv)
        config, until = read_config(arguments), read_until(arguments)
        found = train_ray(config, workers=arguments.workers, address=arguments.address, until=until)
        sys.stdout.write(f"{found.name} version {found.version} is the challenger\n")
        return 0

    return run(chosen)


if __name__ == "__main__":
    sys.exit(main())
