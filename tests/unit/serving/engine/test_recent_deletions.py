"""A request that is repeated after a deletion brings no series back, and changes nothing for the others."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import InvalidArgumentError, SeriesNotFoundError
from forecaster.serving.api.observe_messages import observe_work
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.recent_deletions import RecentDeletions
from forecaster.serving.storage.records import Attributes
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.observing import ObserveWork
from forecaster.serving.work.outcome import Outcome
from forecaster.v1 import forecast_service_pb2 as api
from tests.unit.serving.folding import BUNDLE, columns

NAMES = ("a", "b", "c", "d")
BEFORE, AFTER = 1.0, 2.0**40  # any deletion's time lies between them


def lengths(engine: Engine) -> dict[str, int]:
    return {info.series_id: info.length for info in engine.page("", 99)[0]}


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40)), min_size=1, max_size=30),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
def test_it_is_as_if_the_rows_of_deleted_series_were_not_there(
    rows: list[tuple[str, int]], deleted: set[str], begun_anew: set[str]
) -> None:
    """Known rows, late ones, rows to be looked up and new series among them; the plain way leaves the others out."""
    engines = [Engine(BUNDLE, VolatileStorage()) for _ in range(2)]
    given = [(name, hour, float(hour)) for name, hour in rows]
    kept = [k for k, (name, _) in enumerate(rows) if name not in deleted]
    for engine in engines:
        engine.observe([columns([(name, hour, float(hour)) for name in NAMES for hour in range(20)])])
        for name in sorted(deleted):
            engine.delete(name)
        if again := sorted(begun_anew & deleted):
            engine.observe([columns([(name, 30, 1.0) for name in again])])
    repeated, plain = engines
    (found,) = repeated.observe([dataclasses.replace(columns(given), sent_seconds=BEFORE)])
    expected = np.full(len(rows), Outcome.REJECTED, np.uint8)
    if kept:
        (other,) = plain.observe([columns([given[k] for k in kept])])
        expected[kept] = other.outcomes
        assert {k: str(found.errors[k]) for k in kept if k in found.errors} == {
            kept[k]: str(error) for k, error in other.errors.items()
        }
    assert found.outcomes.tolist() == expected.tolist()
    for k in set(range(len(rows))) - set(kept):
        error = found.errors[k]
        assert isinstance(error, SeriesNotFoundError)
        assert error.resource_names == (rows[k][0],)
    assert lengths(repeated) == lengths(plain)


def test_what_was_sent_after_the_deletion_begins_the_series_anew() -> None:
    engine = Engine(BUNDLE, VolatileStorage())
    first = columns([("a", hour, 1.0) for hour in range(5)])
    engine.observe([first])
    engine.delete("a")
    engine.observe([dataclasses.replace(first, sent_seconds=BEFORE)])
    assert not lengths(engine)
    for sent in (AFTER, float("inf")):
        engine.observe([dataclasses.replace(columns([("a", 9, 1.0)]), sent_seconds=sent)])
        assert lengths(engine) == {"a": 1}
    engine.observe([dataclasses.replace(first, sent_seconds=BEFORE)])  # still late
    assert lengths(engine) == {"a": 1}


def test_only_the_last_deletions_are_remembered() -> None:
    now = 10.0
    recent_deletions = RecentDeletions(most=3, clock=lambda: now)
    for name in ("a", "b", "c", "a", "d"):
        recent_deletions.add(name)
    work = dataclasses.replace(columns([(name, 0, 1.0) for name in "abcd"]), sent_seconds=BEFORE)
    assert recent_deletions.rows([work], [slice(7, 11)]).keys() == {7, 9, 10}  # b is the longest ago
    now = 20.0
    recent_deletions.add("c")
    assert recent_deletions.rows([dataclasses.replace(work, sent_seconds=15.0)], [slice(0, 4)]).keys() == {2}


def test_what_never_existed_is_not_taken_for_deleted() -> None:
    """An age may be longer than the machine is up: times before its start are below zero."""
    recent_deletions = RecentDeletions(clock=lambda: 5.0)
    recent_deletions.add("a")
    work = dataclasses.replace(columns([("a", 0, 1.0), ("b", 0, 1.0)]), sent_seconds=-100.0)
    assert recent_deletions.rows([work], [slice(0, 2)]).keys() == {0}


def test_static_covariates_of_deleted_series_do_not_come_back() -> None:
    recent_deletions = RecentDeletions(clock=lambda: 5.0)
    recent_deletions.add("a")
    given = Attributes(("a", "b"), ({"x": 1.0}, {"x": 2.0}), ({}, {}))
    work = ObserveWork(columns([("b", 0, 1.0)]).columns, given)
    assert recent_deletions.attributes(work) is given
    repeated = dataclasses.replace(work, sent_seconds=BEFORE)
    assert recent_deletions.attributes(repeated) == given.of([1])
    assert recent_deletions.attributes(dataclasses.replace(repeated, attributes=given.of([0]))) is None
    assert recent_deletions.attributes(dataclasses.replace(work, sent_seconds=AFTER)) == given


def test_an_age_is_a_time_ago() -> None:
    request = api.ObserveRequest(observations=[{"series_id": "a", "value": 1.0, "observation_time": {"seconds": 3600}}])
    assert observe_work(request, BUNDLE, 10).sent_seconds == float("inf")
    request.age.seconds = 100
    early = observe_work(request, BUNDLE, 10).sent_seconds
    request.age.Clear()
    request.age.SetInParent()
    assert observe_work(request, BUNDLE, 10).sent_seconds - early > 99
    request.age.seconds = -1
    with pytest.raises(InvalidArgumentError, match="age"):
        observe_work(request, BUNDLE, 10)
