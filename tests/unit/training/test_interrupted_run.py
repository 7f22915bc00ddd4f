"""A run that is interrupted is ended, whatever the signal came amid, and wherever it makes something be written."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from mlflow.entities import Metric
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import loading

from forecaster.config import Config, TrackingConfig
from forecaster.registry import registry
from forecaster.training.run.monitoring import system_metrics
from forecaster.training.run.tracking import track
from pipelines.context import Context
from pipelines.tuning.run import TuningRun


@contextmanager
def tracked(tracking: TrackingConfig) -> Iterator[str]:
    with track(Config(tracking=tracking), trigger="test") as run:
        yield run.run_id


@contextmanager
def monitored(tracking: TrackingConfig) -> Iterator[str]:
    with tracked(tracking) as run_id, system_metrics(tracking, run_id):
        yield run_id


@contextmanager
def tuned(tracking: TrackingConfig) -> Iterator[str]:
    run = TuningRun(Config(tracking=tracking), Context(), "a study")
    with run.under_way():
        yield run.run_id


@contextmanager
def failing_at_its_end(tracking: TrackingConfig) -> Iterator[str]:
    """As where what cleans up fails because of the interrupt: its exception stands in front of that."""
    with tracked(tracking) as run_id:
        try:
            yield run_id
        finally:
            raise RuntimeError("cannot clean up")


class Interrupt:
    """Raises SystemExit behind a call of a function, or of a method, once it is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.is_due, call = False, getattr(owner, name)

        def interrupted(*values: object, **named: object) -> object:
            result = call(*values, **named)
            if self.is_due:
                self.is_due = False
                raise SystemExit(143)
            return result

        monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("amid", ["a query", "an insert"])
@pytest.mark.parametrize("under_way", [tracked, monitored, tuned, failing_at_its_end])
def test_a_signal_amid_a_word_with_the_store_does_not_keep_the_run_from_being_ended(
    under_way: Callable[[TrackingConfig], AbstractContextManager[str]],
    amid: str,
    tracking: TrackingConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between a SELECT and the guarded fetch of its rows, or behind an INSERT: SQLite's lock stays with the frames."""
    client, run_ids = registry.connect(tracking), list[str]()
    if amid == "a query":
        interrupt = Interrupt(monkeypatch, loading, "instances")
    else:
        interrupt = Interrupt(monkeypatch, DefaultDialect, "do_executemany")

    def training() -> None:
        with under_way(tracking) as run_id:
            run_ids.append(run_id)
            interrupt.is_due = True
            client.get_run(run_id)
            client.log_batch(run_id, [Metric(name, 1.0, 0, 0) for name in "ab"])
            raise AssertionError("it was not interrupted")

    with pytest.raises((SystemExit, RuntimeError)) as raised:
        training()
    ended = client.get_run(run_ids[0])
    if under_way is failing_at_its_end:
        assert str(raised.value) == "cannot clean up"
        assert (ended.info.status, ended.data.tags["error"]) == ("FAILED", "RuntimeError: cannot clean up")
    else:
        assert (ended.info.status, ended.data.tags["error"]) == ("KILLED", "SystemExit: 143")
    assert ("system/cpu_utilization_percentage" in ended.data.metrics) is (under_way is monitored)
