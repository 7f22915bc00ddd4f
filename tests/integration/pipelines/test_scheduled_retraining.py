"""The scheduler and the retraining that it is there for: asked to end amid the work, and gone on with."""

import dataclasses
import io
import pathlib

from forecaster.config import Config, ScheduleConfig, TrackingConfig
from forecaster.registry import registry
from pipelines.lease import held
from pipelines.memory import Memory
from pipelines.schedule.attempt import PROGRAM
from pipelines.schedule.step import run
from pipelines.watching.watch import memory_path
from tests.integration.pipelines.scheduling import until_signalled
from tests.integration.pipelines.test_retrain import config
from tests.integration.pipelines.test_serving_quality import until

__all__ = ["config"]  # a fixture


def is_training(tracking: TrackingConfig) -> bool:
    client = registry.connect(tracking)
    found = client.search_runs([registry.experiment_id(client, tracking)], "tags.`mlflow.parentRunId` LIKE '%'")
    return bool(found)


def retrainings(tracking: TrackingConfig) -> list[tuple[str, str]]:
    """Return the status and the trigger of each, in order."""
    client = registry.connect(tracking)
    asked = {"filter_string": "tags.step = 'retrain'", "order_by": ["attributes.start_time ASC"]}
    found = client.search_runs([registry.experiment_id(client, tracking)], **asked)
    return [(one.info.status, one.data.tags["trigger"]) for one in found]


def test_sigterm_amid_a_retraining_and_the_next_start(config: Config, tmp_path: pathlib.Path) -> None:
    stream = io.StringIO()
    begun = dataclasses.replace(config, schedule=ScheduleConfig(every="1s"))
    status = until_signalled(
        lambda: run(begun, PROGRAM, stream),
        lambda: until(lambda: is_training(config.tracking), 120.0),
    )
    assert status == 0, stream.getvalue()
    assert retrainings(config.tracking) == [("KILLED", "interval")], stream.getvalue()
    with held(config):  # it was given back
        pass
    assert Memory.load(memory_path(config)).unfinished == "interval", stream.getvalue()

    later = dataclasses.replace(config, schedule=ScheduleConfig(cron="0 3 1 1 *"))
    status = until_signalled(
        lambda: run(later, PROGRAM, stream),
        lambda: until(lambda: "the retraining has ended" in stream.getvalue(), 120.0),
    )
    assert status == 0, stream.getvalue()
    assert retrainings(config.tracking) == [("KILLED", "interval"), ("FINISHED", "interval")], stream.getvalue()
    assert Memory.load(memory_path(config)).unfinished is None
