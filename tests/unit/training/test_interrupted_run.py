"""A run that is interrupted is ended, whatever the signal came amid; and a signal is told once."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import sqlalchemy
from mlflow.entities import Metric
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import loading

from forecaster import interrupts
from forecaster.config import Config, TrackingConfig
from forecaster.interrupts import interruptible
from forecaster.registry import registry
from forecaster.training.run.monitoring import system_metrics
from forecaster.training.run.tracking import track
from pipelines.context import Context
from pipelines.tuning.run import TuningRun

RAISED = {signal.SIGTERM: SystemExit, signal.SIGINT: KeyboardInterrupt}
SAID = {signal.SIGTERM: "SystemExit: 143", signal.SIGINT: "KeyboardInterrupt: "}


@pytest.fixture(autouse=True)
def _as_in_a_shell() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in RAISED}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def tracked(tracking: TrackingConfig) -> Iterator[str]:
    with interruptible(), track(Config(tracking=tracking), trigger="test") as run:
        yield run.run_id


@contextmanager
def monitored(tracking: TrackingConfig) -> Iterator[str]:
    with tracked(tracking) as run_id, system_metrics(tracking, run_id):
        yield run_id


@contextmanager
def tuned(tracking: TrackingConfig) -> Iterator[str]:
    run = TuningRun(Config(tracking=tracking), Context(), "a study")
    with interruptible(), run.under_way():
        yield run.run_id


class Told:
    """Sends this process a signal behind a call of a function, or of a method, once it is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: signal.Signals) -> None:
        self.is_due, call = False, getattr(owner, name)

        def told(*values: object, **named: object) -> object:
            result = call(*values, **named)
            if self.is_due:
                self.is_due = False
                signal.raise_signal(number)
            return result

        monkeypatch.setattr(owner, name, told)


@pytest.mark.parametrize("number", RAISED)
@pytest.mark.parametrize("amid", ["a query", "an insert"])
@pytest.mark.parametrize("under_way", [tracked, monitored, tuned])
def test_a_signal_amid_a_word_with_the_store_does_not_keep_the_run_from_being_ended(
    under_way: Callable[[TrackingConfig], AbstractContextManager[str]],
    amid: str,
    number: signal.Signals,
    tracking: TrackingConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between a SELECT and the fetch of its rows, or behind an INSERT: SQLite's lock would stay with the frames."""
    client, run_ids = registry.connect(tracking), list[str]()
    if amid == "a query":
        told = Told(monkeypatch, loading, "instances", number)
    else:
        told = Told(monkeypatch, DefaultDialect, "do_executemany", number)

    def training() -> None:
        with under_way(tracking) as run_id:
            run_ids.append(run_id)
            told.is_due = True
            client.get_run(run_id)
            client.log_batch(run_id, [Metric(name, 1.0, 0, 0) for name in "ab"])
            while True:
                time.sleep(1)

    with pytest.raises(RAISED[number]) as raised:
        training()
    ended = client.get_run(run_ids[0])
    assert (ended.info.status, ended.data.tags["error"]) == ("KILLED", SAID[number])
    assert ("system/cpu_utilization_percentage" in ended.data.metrics) is (under_way is monitored)
    names = {entry.frame.f_globals["__name__"] for entry in raised.traceback}
    assert not [name for name in names if "sqlalchemy" in name], "it came amid a statement"


def test_a_signal_told_twice_is_one() -> None:
    checks = []

    def work() -> None:
        with interruptible() as check:
            checks.append(check)
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:  # a run is ended here, which takes its time
                signal.raise_signal(signal.SIGTERM)
                checks.append(check)

    with pytest.raises(SystemExit) as raised:
        work()
    assert len(checks) == 2
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(SystemExit):
        checks[0]()  # where the first was lost


def test_a_statement_that_hangs_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_LONGEST_STATEMENT_SECONDS", 0.1)
    engine = sqlalchemy.create_engine("sqlite://")

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def hang(*arguments: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        while True:
            time.sleep(0.01)

    with pytest.raises(SystemExit), interruptible(), engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))


def test_a_signal_amid_the_last_statement_is_told_behind_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_AGAIN_SECONDS", 300.0)
    engine, done = sqlalchemy.create_engine("sqlite://"), list[str]()

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def told(*arguments: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        with interruptible():
            with engine.connect() as connection:
                assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
            done.append("the block")
        done.append("what is behind it")

    with pytest.raises(SystemExit):
        work()
    assert done == ["the block"]


def test_what_somebody_handles_is_left_to_him() -> None:
    numbers = list[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert numbers == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
