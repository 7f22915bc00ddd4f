"""However rows are divided among sources and ingests, the data set is the one that a plain dictionary would be."""

import itertools
import tempfile
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.pipelines.ingesting import DataSet, Row, frame

COVARIATES = {"past_covariates": ("rain",), "static_covariates": ("area",)}
BESIDE = ("rain", "area")
AREAS = {"a": 1.0, "b": -2.5, "ü": None}
KEYS = st.tuples(st.sampled_from(sorted(AREAS)), st.integers(0, 80))
NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, -1.5, 1e300]))


def whole(told: dict[tuple[str, int], Row]) -> list[Row]:
    return [(name, hour, *values, AREAS[name]) for (name, hour), values in told.items()]


@settings(max_examples=30, deadline=None)
@given(told=st.dictionaries(KEYS, st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30), data=st.data())
def test_any_split_of_rows_over_ingests_gives_the_same_data_set(
    told: dict[tuple[str, int], Row], data: st.DataObject
) -> None:
    rows = whole(told)
    files = data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5))
    # Each row is whole in one file; others may have it too, and of it what they please.
    homes = data.draw(st.lists(st.integers(0, len(files) - 1), min_size=len(rows), max_size=len(rows)))
    kept: list[list[Row]] = [[] for _ in files]
    for row, home in zip(rows, homes, strict=True):
        for number, (has, has_y, has_rain) in enumerate(files):
            if number == home:
                kept[number].append(row)
            elif has:
                kept[number].append((*row[:2], row[2] if has_y else None, row[3] if has_rain else None, row[4]))
    with tempfile.TemporaryDirectory() as folder:
        once, often = (DataSet(Path(folder, name), COVARIATES) for name in ("once", "often"))
        result = once.take(frame(rows, *BESIDE))
        together = data.draw(st.lists(st.booleans(), min_size=len(files), max_size=len(files)))
        groups = itertools.groupby(zip(kept, itertools.accumulate(together), strict=True), key=lambda one: one[1])
        for _, group in groups:
            if sources := [frame(some, *BESIDE) for some, _ in group if some]:
                last = often.take(*sources)
        assert often.rows() == once.rows() == sorted(rows, key=lambda row: (row[0], row[1]))
        assert last.manifest.content_hash == result.manifest.content_hash
        assert last.manifest.rows == len(rows)
        assert last.manifest.series == len({name for name, _ in told})
        assert once.take(frame(rows, *BESIDE)).changes.known == len(rows)


@settings(max_examples=30, deadline=None)
@given(
    ingests=st.lists(
        st.lists(st.dictionaries(KEYS, st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8), min_size=1, max_size=2),
        min_size=1,
        max_size=4,
    ),
    corrections=st.sampled_from(["replace", "keep"]),
)
def test_values_that_differ_follow_the_rule(
    ingests: list[list[dict[tuple[str, int], Row]]], corrections: Literal["replace", "keep"]
) -> None:
    model: dict[tuple[str, int], list[float | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data_set = DataSet(Path(folder), COVARIATES, corrections=corrections)
        for sources in ingests:
            before = {key: list(values) for key, values in model.items()}
            differing, touched = set(), set()
            for source in sources:
                for key, given_values in source.items():
                    touched.add(key)
                    held = model.setdefault(key, [None, None])
                    for k, value in enumerate(given_values):
                        if value is None:
                            continue
                        if held[k] is None or corrections == "replace":
                            differing |= {key} if held[k] not in (None, value) else set()
                            held[k] = value
                        elif held[k] != value:
                            differing.add(key)
            changes = data_set.take(*(frame(whole(source), *BESIDE) for source in sources)).changes
            assert changes.new == len(model.keys() - before.keys())
            assert changes.corrected == len(differing)
            same = {key for key in touched & before.keys() if key not in differing}
            assert changes.completed == len({key for key in same if model[key] != before[key]})
            assert changes.known == len({key for key in same if model[key] == before[key]})
            expected = sorted((*key, *values, AREAS[key[0]]) for key, values in model.items())
            assert data_set.rows() == expected
