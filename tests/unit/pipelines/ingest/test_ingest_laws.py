"""However rows are divided among sources and ingests, the data set is the one that a plain dictionary would be."""

import itertools
import os
import tempfile
from pathlib import Path
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.config.values import MAX_MAGNITUDE
from pipelines.ingest.step import ingest
from tests.unit.pipelines.ingest.ingesting import DataSet, Row, frame

COVARIATES = {"past_covariates": ("rain",), "static_covariates": ("area",)}
BESIDE = ("rain", "area")
AREAS = {"a": 1.0, "b": -2.5, "ü": None}
KEYS = st.tuples(st.sampled_from(sorted(AREAS)), st.integers(0, 80))
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.5, MAX_MAGNITUDE])
NUMBERS = st.one_of(st.none(), VALUES)


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


TOLD = st.dictionaries(KEYS, st.tuples(VALUES, NUMBERS), min_size=1, max_size=6)
STEPS = st.tuples(st.integers(0, 2), st.one_of(st.none(), TOLD), st.sampled_from([1.0, 2.0]))


@settings(max_examples=20, deadline=None)
@given(
    first=st.lists(TOLD, min_size=3, max_size=3),
    steps=st.lists(STEPS, min_size=1, max_size=4),
    has_area=st.booleans(),
)
def test_a_data_set_follows_the_order_of_its_sources_whatever_was_touched_when(
    first: list[dict[tuple[str, int], Row]], steps: list[tuple[int, dict[tuple[str, int], Row] | None, float]],
    has_area: bool,
) -> None:  # fmt: skip
    """Files are touched, get rows, and get other values, one after the other; a new data set of them says the same."""
    columns = {"past_covariates": ("rain",)} | ({"static_covariates": ("area",)} if has_area else {})
    held, areas = [dict(told) for told in first], [1.0, 2.0, 1.0]
    with tempfile.TemporaryDirectory() as folder:
        often, once = (DataSet(Path(folder, name), columns) for name in ("often", "once"))

        def written(data_set: DataSet, number: int) -> str:
            rows = [(*key, *values, areas[number]) for key, values in held[number].items()]
            return data_set.write(frame(rows, *BESIDE), f"{number}.parquet")

        paths = [written(often, number) for number in range(3)]
        ingest(often.config(*paths))
        for number, told, area in steps:
            if told is None:
                os.utime(paths[number], (area, area))  # an age that it had not yet, or has again
            else:
                for key, values in told.items():  # a value is never taken away
                    before = held[number].get(key, (None, None))
                    held[number][key] = tuple(b if n is None else n for n, b in zip(values, before, strict=True))
                areas[number] = area
                written(often, number)
            last = ingest(often.config(*paths))
        fresh = ingest(once.config(*(written(once, number) for number in range(3))))
        assert often.rows() == once.rows()
        assert last.manifest.content_hash == fresh.manifest.content_hash


def test_what_lies_behind_a_source_is_read_again_only_where_it_may_differ(tmp_path: Path) -> None:
    data_set = DataSet(tmp_path)
    days = [frame([("a", hour, float(hour)) for hour in range(start, start + 24)]) for start in (0, 24, 12)]
    paths = [data_set.write(rows) for rows in days]
    ingest(data_set.config(*paths))
    os.utime(paths[0])
    assert ingest(data_set.config(*paths)).changes.known == 24 + 12  # the third has the first's last hours
    os.utime(paths[2])
    assert ingest(data_set.config(*paths)).changes.known == 24
    assert ingest(data_set.config(*paths)).changes.known == 0
    kept = data_set.config(*paths, corrections="keep")
    os.utime(paths[0])
    assert ingest(kept).changes.known == 24  # what is there stays: nothing behind it matters


def test_another_order_is_another_data_set(tmp_path: Path) -> None:
    data_set = DataSet(tmp_path)
    paths = [data_set.write(frame([("a", 0, value), ("a", 1, 0.0)])) for value in (1.0, 2.0)]
    ingest(data_set.config(*paths))
    assert data_set.rows()[0] == ("a", 0, 2.0)
    ingest(data_set.config(*reversed(paths)))
    assert data_set.rows()[0] == ("a", 0, 1.0)
    assert ingest(data_set.config(*reversed(paths))).line().startswith("nothing new")
