"""Admission against a plain row-by-row reference, on drawn streams with retries, gaps and mistakes."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from forecaster.data.grid import Grid
from forecaster.errors import ConflictError, InvalidArgumentError, LimitReachedError
from forecaster.serving.storage.records import Columns
from forecaster.serving.work.admission import Known, admit, join
from forecaster.serving.work.outcome import Outcome

STEP, GAP = 10, 4


class PlainSeries:
    """One series by the rules, one row at a time, remembering everything."""

    def __init__(self) -> None:
        self.clock: int | None = None
        self.values: dict[int, float] = {}
        self.pending: dict[int, float] = {}  # of the batch
        self.sought: set[int] = set()

    def judge(self, time: int, value: float, *, replaces: bool) -> tuple[str, int]:  # noqa: PLR0911
        if self.clock is None:
            return self._apply(time, value, 0)
        steps, rest = divmod(time - self.clock, STEP)
        if rest:
            return "off_grid", 0
        if steps > GAP + 1:  # a long gap: a fresh start, but what was before stays known
            return self._apply(time, value, 0)
        if steps > 0:
            for missing in range(self.clock + STEP, time, STEP):
                self.values[missing] = math.nan
            return self._apply(time, value, steps)
        stored = self.values.get(time)
        if time in self.sought:
            return "sought", 0
        is_same = stored is not None and (stored == value or (math.isnan(stored) and math.isnan(value)))
        if is_same and not replaces:
            return "duplicate", 0
        if not replaces and not math.isnan(self.pending.get(time, math.nan)):
            return "conflict", 0
        self.sought.add(time)
        return "sought", 0

    def _apply(self, time: int, value: float, advance: int) -> tuple[str, int]:
        self.clock = time
        self.values[time] = self.pending[time] = value
        return "applied", advance


KINDS = {InvalidArgumentError: "off_grid", ConflictError: "conflict"}
row = st.tuples(
    st.integers(0, 2),  # series
    st.one_of(st.integers(-3, 9).map(lambda k: k * STEP), st.integers(-20, 60)),  # time against the clock
    st.sampled_from([1.0, 2.0, math.nan]),
    st.booleans(),  # whether it replaces what was said
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(row, min_size=1, max_size=12), min_size=1, max_size=6))
def test_it_judges_like_the_plain_reference(batches: list[list[tuple[int, int, float, bool]]]) -> None:
    plain = [PlainSeries() for _ in range(3)]
    base = [0, 0, 0]
    for batch in batches:
        before = [dict(one.values) for one in plain]
        clocks = [one.clock for one in plain]

        def held(series: np.ndarray, time: np.ndarray, before=before) -> tuple[np.ndarray, np.ndarray]:
            asked = list(zip(series.tolist(), time.tolist(), strict=True))
            found = np.array([t in before[s] for s, t in asked], dtype=bool)
            return found, np.array([before[s].get(t, math.nan) for s, t in asked])

        known = Known(np.array([c or 0 for c in clocks]), np.array([c is not None for c in clocks]), held, 3)
        times = []
        for one in plain:
            one.pending, one.sought = {}, set()
        for series, offset, *_ in batch:
            base[series] = max(base[series], offset)
            times.append((plain[series].clock or 0) + offset)
        columns = Columns(
            ("a", "b", "c"),
            np.array([r[0] for r in batch], dtype=np.int32),
            np.array(times, dtype=np.int64),
            np.array([r[2] for r in batch]),
        )
        replaces = np.array([r[3] for r in batch]) if any(r[3] for r in batch) else None
        verdict = admit(columns, known, grid=Grid(STEP), max_gap_steps=GAP, replaces=replaces)
        expected = [plain[r[0]].judge(t, r[2], replaces=r[3]) for r, t in zip(batch, times, strict=True)]
        found = [
            KINDS[type(verdict.errors[i])] if i in verdict.errors else Outcome(int(o)).name.lower() if o else "sought"
            for i, o in enumerate(verdict.outcomes)
        ]
        assert verdict.sought.tolist() == [i for i, kind in enumerate(found) if kind == "sought"]
        assert found == [kind for kind, _ in expected]
        advance = dict(zip(verdict.accepted.tolist(), verdict.advance.tolist(), strict=True))
        assert advance == {i: steps for i, (kind, steps) in enumerate(expected) if kind == "applied"}
        ascends = [r[0] for r in batch] == sorted({r[0] for r in batch})
        assert verdict.one_step_each == (ascends and all(one == ("applied", 1) for one in expected))


@pytest.mark.parametrize("count", [3, 300])
@pytest.mark.parametrize("unusual", ["", "missing step", "duplicate", "new", "twice", "other order"])
def test_it_says_whether_all_rows_are_the_usual_ones(count: int, unusual: str) -> None:
    series, times = np.arange(count, dtype=np.int32), np.full(count, 1_000 + STEP)
    exists = np.ones(count, dtype=bool)
    exists[1] = unusual != "new"
    times[1] += {"missing step": STEP, "duplicate": -STEP}.get(unusual, 0)
    if unusual == "twice":
        series[1], times[1] = 0, times[0] + STEP
    if unusual == "other order":
        series[:2] = 1, 0
    columns = Columns(tuple(f"s{k}" for k in range(count)), series, times, np.ones(count))
    held = lambda asked, time: (time == 1_000, np.ones(len(asked)))  # noqa: E731
    known = Known(np.full(count, 1_000), exists, held, 1)
    verdict = admit(columns, known, grid=Grid(STEP), max_gap_steps=GAP)
    assert not verdict.errors
    assert verdict.one_step_each == (unusual == "")


def nothing_held(series: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(series), dtype=bool), np.full(len(series), math.nan)


def test_new_series_past_the_limit_are_refused_whole() -> None:
    columns = Columns(
        ("a", "b", "c"), np.array([0, 1, 1, 2], np.int32), np.array([0, 0, 10, 0]), np.array([1.0, 1.0, 1.0, 1.0])
    )
    known = Known(np.array([0, 0, -10]), np.array([False, False, True]), nothing_held, 1)
    verdict = admit(columns, known, grid=Grid(STEP), max_gap_steps=GAP)
    assert verdict.outcomes.tolist() == [Outcome.APPLIED, Outcome.REJECTED, Outcome.REJECTED, Outcome.APPLIED]
    assert all(isinstance(error, LimitReachedError) for error in verdict.errors.values())


def test_a_time_off_the_grid_is_refused_whatever_it_is() -> None:
    columns = Columns(("a",), np.zeros(2, np.int32), np.array([0, 1_003]), np.array([1.0, 1.0]))
    known = Known(np.array([1_000]), np.array([True]), lambda s, time: (time == 0, np.full(len(s), 5.0)), 1)
    verdict = admit(columns, known, grid=Grid(STEP), max_gap_steps=GAP)
    assert verdict.sought.tolist() == [0]
    assert "off the grid" in str(verdict.errors[1])


def test_join_keeps_rows_and_merges_ids() -> None:
    left = Columns(("a", "b"), np.array([0, 1], np.int32), np.array([1, 2]), np.array([1.0, 2.0]))
    right = Columns(("b", "c"), np.array([1, 0, 0], np.int32), np.array([3, 4, 5]), np.array([3.0, 4.0, 5.0]))
    joined, slices = join([left, right])
    assert [joined.series_ids[i] for i in joined.series] == ["a", "b", "c", "b", "b"]
    assert joined.time_us.tolist() == [1, 2, 3, 4, 5]
    assert slices == [slice(0, 2), slice(2, 5)]
