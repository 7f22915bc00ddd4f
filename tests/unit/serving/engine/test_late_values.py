"""What becomes of late and corrected rows where something happens between the judgement, the look and the writing."""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from forecaster.errors import ConflictError, OutOfOrderError, RefoldingError, SeriesNotFoundError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.turns import Turn
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import Observed, ObserveWork
from forecaster.serving.work.outcome import Outcome
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import BUNDLE, HORIZON, HOUR_US, columns, make_bundle, work
from tests.unit.serving.storages import Opener, prune_all

COVARIATES = make_bundle(1, SPEC)
NAMES = COVARIATES.model.covariates.dynamic
APPLIED, DUPLICATE, REJECTED, CORRECTED, FILLED = map(int, Outcome)


@pytest.fixture
def storage(opener: Opener) -> Iterator[Storage]:
    with closing(opener()) as opened:
        yield opened


def replacing(request: ObserveWork, sent_seconds: float = math.inf) -> ObserveWork:
    return dataclasses.replace(request, replaces=True, sent_seconds=sent_seconds)


def told(answer: Observed) -> list[int]:
    return [int(outcome) for outcome in answer.outcomes]


def test_a_row_that_was_judged_against_a_life_that_is_over_is_refused(storage: Storage) -> None:
    engine = Engine(BUNDLE, storage, late_steps=9)
    engine.observe([columns([("a", hour, 1.0) for hour in range(100)])])
    (answer,) = engine.advance([replacing(columns([("a", 90, 5.0)]))], Turn())
    engine.delete("a")
    engine.observe([columns([("a", hour, 2.0) for hour in range(40, 51)])])
    settled = engine.late_values.looked_up(answer)
    assert told(settled) == [REJECTED]
    assert isinstance(settled.errors[0], SeriesNotFoundError)
    assert not engine.amended
    (answer,) = engine.advance([replacing(columns([("a", 45, 5.0)]))], Turn())
    engine.delete("a")
    assert told(engine.late_values.looked_up(answer)) == [REJECTED]


def test_what_was_corrected_since_the_look_is_looked_up_again(storage: Storage) -> None:
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([("a", hour, 1.0) for hour in range(20)])])
    sent = time.monotonic()
    (late,) = engine.advance([replacing(columns([("a", 5, 9.0)]), sent)], Turn())
    engine.observe([replacing(columns([("a", 5, 9.0)]))])
    engine.observe([replacing(columns([("a", 5, 8.0)]))])
    assert told(engine.late_values.looked_up(late)) == [DUPLICATE]  # it is the retry of the first of them
    assert told(engine.observe([replacing(columns([("a", 5, 9.0)]))])[0]) == [CORRECTED]
    assert told(engine.observe([columns([("a", 5, 8.0)])])[0]) == [DUPLICATE]


@pytest.mark.parametrize("together", [True, False])
def test_covariates_of_others_change_no_outcome(storage: Storage, *, together: bool) -> None:
    engine = Engine(COVARIATES, storage)
    engine.observe(
        [work([(name, hour, float(hour), (1.0, 2.0, 3.0)) for name in "ab" for hour in range(10)], None, NAMES)]
    )
    plain, whole = work([("a", 5, 5.0, ())]), work([("b", 5, 5.0, (1.0, 2.0, 9.0))], None, NAMES)
    requests = [replacing(plain), replacing(whole)]
    answers = engine.observe(requests) if together else [engine.observe([one])[0] for one in requests]
    assert [told(answer) for answer in answers] == [[DUPLICATE], [CORRECTED]]


@pytest.mark.parametrize("together", [True, False])
def test_a_correction_in_the_batch_of_its_value(storage: Storage, *, together: bool) -> None:
    engine = Engine(COVARIATES, storage)
    engine.observe([work([("a", hour, float(hour), (1.0, 2.0, 3.0)) for hour in range(10)], None, NAMES)])
    value, other = (work([("a", 10, 7.0, (x, 2.0, 3.0))], None, NAMES) for x in (1.0, 9.0))
    gone, late = work([("a", 10, math.nan, (9.0, 2.0, 3.0))], None, NAMES), columns([("a", 10, 4.0)])
    requests = [value, replacing(other), replacing(gone), late, columns([("a", 10, math.nan)])]
    answers = engine.observe(requests) if together else [engine.observe([one])[0] for one in requests]
    assert [told(answer)[0] for answer in answers] == [APPLIED, CORRECTED, CORRECTED, FILLED, DUPLICATE]


def test_many_words_on_one_time_are_one_record(storage: Storage) -> None:
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([("a", hour, 1.0) for hour in range(10)])])
    before = storage.journal.last_sequence()
    answer = engine.observe([replacing(columns([("a", 5, float(k % 2)) for k in range(200)]))])[0]
    assert told(answer) == [CORRECTED] * 200
    assert storage.journal.last_sequence() == before + 1
    assert told(engine.observe([columns([("a", 5, 1.0)])])[0]) == [DUPLICATE]


def test_a_missing_value_that_was_known_to_be_missing_is_repeated_after_it_came(storage: Storage) -> None:
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([("a", 0, 1.0), ("a", 3, 1.0)])])
    sent, missing = time.monotonic(), columns([("a", 1, math.nan)])
    assert told(engine.observe([missing])[0]) == [DUPLICATE]
    assert told(engine.observe([columns([("a", 1, 2.0)])])[0]) == [FILLED]
    assert told(engine.observe([dataclasses.replace(missing, sent_seconds=sent)])[0]) == [DUPLICATE]
    assert isinstance(engine.observe([missing])[0].errors[0], ConflictError)


def test_what_is_not_found_because_nobody_looks_further_is_not_taken_for_missing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(BUNDLE, storage, late_steps=500)
    engine.observe([columns([("a", hour, 1.0) for hour in range(10)])])
    for k in range(5):
        engine.observe([columns([(f"z{k}", hour, 1.0) for hour in range(200)])])
    engine.observe([columns([("a", hour, 1.0) for hour in range(10, 60)])])
    for backend in ("sqlite", "postgres"):
        monkeypatch.setattr(f"forecaster.serving.storage.{backend}.journal._MOST_ROWS_LOOKED_AT", 500)
    answer = engine.observe([columns([("a", 5, 77.0)])])[0]
    assert told(answer) == [REJECTED]
    assert isinstance(answer.errors[0], OutOfOrderError)


def test_a_forecast_may_await_corrections(storage: Storage) -> None:
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([(name, hour, 1.0) for name in "ab" for hour in range(20)])])
    engine.observe([replacing(columns([("a", 5, 9.0)]))])
    plain = ForecastWork(("a", "b"), HORIZON, BUNDLE.model.config.quantile_levels)
    answers = engine.forecast([plain, dataclasses.replace(plain, awaits_corrections=True)])
    assert [answer.series_ids for answer in answers] == [("a", "b"), ("b",)]
    assert isinstance(answers[1].failures["a"], RefoldingError)


@pytest.mark.parametrize("is_complete", [True, False])
def test_whoever_waits_to_be_folded_waits_after_a_start_too(storage: Storage, *, is_complete: bool) -> None:
    """Told by the record, or, once a round of snapshots has passed it, by what is kept beside these."""
    engine = Engine(BUNDLE, storage)
    engine.observe([columns([(name, hour, 1.0) for name in "ab" for hour in range(20)])])
    engine.observe([replacing(columns([("a", 5, 9.0)])), replacing(columns([("b", 5, 9.0)]))])
    if is_complete:
        engine.snapshot()
    engine.delete("b")
    restarted = Engine(BUNDLE, storage)
    restarted.recover()
    assert restarted.amended.among(["a", "b"]) == ["a"]
    assert [one.first_us for one in restarted.amended.next(5)] == [5 * HOUR_US]


def test_nothing_comes_late_where_records_are_gone(opener: Opener) -> None:
    with closing(opener()) as storage:
        engine = Engine(BUNDLE, storage)
        engine.observe([columns([("a", hour, 1.0) for hour in range(20)])])
        engine.snapshot()
        prune_all(storage, storage.journal.last_sequence(), keep_history=False)
    with closing(opener()) as storage:
        again = Engine(BUNDLE, storage)
        again.recover()
        assert isinstance(again.observe([replacing(columns([("a", 15, 9.0)]))])[0].errors[0], ConflictError)
    volatile = Engine(BUNDLE, VolatileStorage())
    volatile.observe([columns([("a", hour, 1.0) for hour in range(20) if hour != 18])])
    rows = [("a", 18, 9.0), ("a", 19, 9.0)]
    errors = volatile.observe([replacing(columns(rows))])[0].errors
    assert [type(errors[row]) for row in range(2)] == [OutOfOrderError, ConflictError]
