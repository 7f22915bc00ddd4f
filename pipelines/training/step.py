"""The step `train`: from the data set to a registered challenger.

How it trains is `forecaster.training.run.job`, which the `forecaster train` command calls too; whether the challenger
becomes the champion is `promote`'s.
"""

import dataclasses
import datetime as dt
import pathlib
import shutil
import urllib.parse
from typing import TYPE_CHECKING

from forecaster.config import Config
from forecaster.errors import CheckpointError
from forecaster.training.run import job
from forecaster.training.run.job import TrainResult
from pipelines.context import Context
from pipelines.training.dataset import ingested
from pipelines.window import window_start

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from forecaster.registry.registry import RegisteredModel

_KEY = "retrain_key"


def train(config: Config, *, until: dt.datetime | None = None, context: Context | None = None) -> TrainResult | None:
    """Train on the data set and register the model as the challenger.

    With a key it is done once: a version that has it is returned as it is, and a training of it that was killed is gone
    on with from its checkpoints. Without one every call makes a new version.

    Args:
        config: all of it; `serving` is not used.
        until: use only the data before this time; left out, before the window that models are compared on.
        context: why it runs.

    Returns:
        None in a process that only trains along.

    Raises what `forecaster.training.run.job.train` raises, and DataError if there is no data set.
    """
    context = context or Context()
    config = ingested(config)
    if context.key is None:
        return _train(config, until, context)
    folders = _checkpoints(config)
    folder = folders / context.key
    from forecaster.registry import registry  # with torch, which takes seconds

    client = registry.connect(config.tracking)
    if (found := _registered(client, config, context.key)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return _trained_before(client, config, found)
    _end_killed(client, config, context.key)
    for other in folders.glob("*"):  # of data that is old by now
        if other != folder:
            shutil.rmtree(other)
    resumable = dataclasses.replace(config.training, checkpoint_dir=str(folder), resume=True)
    config = dataclasses.replace(config, training=resumable)
    try:
        result = _train(config, until, context)
    except CheckpointError as error:
        context.stream.write(f"trains from the beginning: {error}\n")
        shutil.rmtree(folder)
        result = _train(config, until, context)
    shutil.rmtree(folder)
    return result


def _train(config: Config, until: dt.datetime | None, context: Context) -> TrainResult | None:
    return job.train(
        config,
        until=until or (lambda frame: window_start(config, frame)),
        trigger=context.trigger,
        stream=context.stream,
        challenger=True,
        tags=context.tags("train"),
    )


def _checkpoints(config: Config) -> pathlib.Path:
    """Return the folder of the checkpoints of all keys of the model."""
    model, output = urllib.parse.quote(config.tracking.model, safe=""), pathlib.Path(config.ingest.output)
    if config.training.checkpoint_dir is not None:
        return pathlib.Path(config.training.checkpoint_dir) / "retrain" / model
    return output.with_name(f"{output.name}-checkpoints") / model


def _registered(client: "MlflowClient", config: Config, key: str) -> "RegisteredModel | None":
    from forecaster.registry import registry

    with registry.store_errors(config.tracking):
        asked = (registry.named("name", config.tracking.model), f"tags.`{_KEY}` = '{key}'")
        found = client.search_model_versions(" and ".join(filter(None, asked)))
    mine = [int(version.version) for version in found if version.name == config.tracking.model]
    newest = max(mine, default=None)
    return None if newest is None else registry.find(client, config.tracking, str(newest))


def _trained_before(client: "MlflowClient", config: Config, found: "RegisteredModel") -> TrainResult:
    """Finish what may be missing behind a version: its alias, unless it was rolled back, and the end of its run."""
    from forecaster.registry import registry
    from forecaster.registry.aliases import ROLLED_BACK_AT

    if not {registry.CHALLENGER, registry.CHAMPION} & set(found.aliases) and ROLLED_BACK_AT not in found.tags:
        registry.set_alias(client, config.tracking, registry.CHALLENGER, found.version)
    run = client.get_run(found.run_id)
    if run.info.status != "FINISHED":  # killed behind the registration, which is a training's last act
        if "error" in run.data.tags:
            client.delete_tag(found.run_id, "error")
        client.set_terminated(found.run_id, "FINISHED")
    return TrainResult(found.run_id, registry.resolve(config.tracking, found.version), None)


def _end_killed(client: "MlflowClient", config: Config, key: str) -> None:
    """End the runs of trainings of this key whose process ended without a word, and what they had begun to log."""
    from forecaster.registry import registry

    experiment = registry.experiment_id(client, config.tracking)
    with registry.store_errors(config.tracking):
        for run in client.search_runs([experiment], f"tags.step = 'train' and tags.{_KEY} = '{key}'"):
            of_run = f"source_run_id = '{run.info.run_id}'"
            for model in client.search_logged_models([experiment], filter_string=of_run):
                client.delete_logged_model(model.model_id)
            if run.info.status == "RUNNING":
                client.set_tag(run.info.run_id, "error", "its process ended without a word")
                client.set_terminated(run.info.run_id, "KILLED")
