"""Series that ended long ago are rebuilt by one reading of the past, not by one for each part of a swap."""

from collections.abc import Iterator

import numpy as np
import pytest

from forecaster.serving.rebuilding.census import EARLIEST_US, Census
from forecaster.serving.rebuilding.ended_series import groups, stragglers
from forecaster.serving.states.buckets import BUCKETS, bucket
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.records import Columns
from forecaster.serving.storage.sqlite.history import History, HistoryFile
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import Static, assert_same, make_bundle, walk
from tests.unit.serving.storages import erase_all, prune_all
from tests.unit.serving.swap.test_swap import window
from tests.unit.serving.swapping import Fleet, run

BUNDLES = {"1": make_bundle(1, SPEC), "2": make_bundle(2, SPEC, cell="lstm")}
REPLAYED, LIVING, HOURS = 40, 12, 400


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many rows were read of the history, which has many small files."""
    monkeypatch.setattr("forecaster.serving.storage.sqlite.history._MOST_ROWS_MERGED", 600)
    monkeypatch.setattr("forecaster.serving.storage.sqlite.pruning._MOST_ROWS", 300)
    monkeypatch.setattr("forecaster.serving.rebuilding.ended_series._MOST_AT_ONCE", 3)
    read, rows = History.read, [0]

    def counted(self: History, file: HistoryFile, after: int) -> Iterator[tuple[int, Columns]]:
        for sequence, columns in read(self, file, after):
            rows[0] += len(columns)
            yield sequence, columns

    monkeypatch.setattr(History, "read", counted)
    return rows


@pytest.mark.usefixtures("small_parts")
def test_the_past_is_read_once_for_them_and_not_for_each_part(storage: Storage, rows_read: list[int]) -> None:
    static: dict[str, Static] = {f"dead{k}": ({"area": 5.0 * k}, {"region": "north"}) for k in range(4)}

    async def scenario() -> None:
        fleet = Fleet(storage, BUNDLES)
        async with fleet.running():
            for k, name in enumerate(static):  # some of them are cut, some whole; one comes again after its deletion
                await fleet.observe(walk(name, range(20, 30 + 60 * (k % 2)), k, 3), {name: static[name]})
            await fleet.observe(walk("dead1", range(90, 100), 1, 3), {"dead1": ({"area": 70.0}, {})})
            await fleet.delete("dead2")
            await fleet.observe(walk("dead2", range(20), 7, 3))
            alive = [walk(f"s{k}", range(HOURS), k, 3) for k in range(LIVING)]
            for hour in range(0, HOURS, 10):
                await fleet.observe([row for rows in alive for row in rows[hour : hour + 10]])
            erase_all(storage)
            fleet.engine.snapshot()
            assert prune_all(storage, 45)
            await fleet.swap("2", replay_steps=REPLAYED)
            for name, found, version in fleet.each(await fleet.forecast(sorted(fleet.series))):
                series, last = fleet.series[name], window(fleet.series[name], BUNDLES["2"], REPLAYED)
                cut = last < len(series.steps)
                assert version == "2"
                assert_same(found, series.forecast(BUNDLES["2"], last=last, first_is_missing=cut), name)
            # A part needs the last hundred rows or so of each series; there are five or more.
            assert rows_read[0] < 1.5 * LIVING * HOURS

    run(scenario)


def test_a_few_that_ended_long_ago_are_chosen_and_nobody_else() -> None:
    names = np.array([f"s{k}" for k in range(100)], dtype=object)
    clocks = np.full(100, 1000)
    clocks[:7] = [3, 10, 500, 0, 1, 2, EARLIEST_US]
    census = Census(
        9, names, np.array([bucket(name) for name in names]), clocks, np.full(100, 50), np.ones(BUCKETS, bool)
    )
    behind = np.maximum(clocks - 50, EARLIEST_US)
    late = stragglers(census, behind, 20)
    assert np.flatnonzero(late).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert not stragglers(census, behind, 1).any()  # which reads it once anyway
    assert not stragglers(census.at(np.arange(10, 100)), behind[10:], 20).any()
    parts = [np.arange(start, start + 64) for start in range(0, 1024, 64)]
    assert [part.tolist() for group in groups(census, late, parts) for part in group] == [one.tolist() for one in parts]
