"""Swaps where journal and history have less than the states remember: their rings are replayed."""

import contextlib
import itertools
import pathlib
import re
import sqlite3

import pytest

from forecaster.errors import StateLostError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.folding import assert_same, make_bundle, walk
from tests.unit.serving.storages import prune_all
from tests.unit.serving.swapping import OTHERS, A, Fleet, run

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.parametrize("min_history", [1, 30])
def test_without_a_journal_the_rings_are_replayed(min_history: int) -> None:
    """A state remembers 24 values: shorter series move exactly, and what could be forecast still can."""

    async def scenario() -> None:
        bundle = make_bundle(2, cell="lstm", min_history=min_history)
        fleet = Fleet(VolatileStorage(), {"1": make_bundle(1, min_history=min_history), "2": bundle})
        async with fleet.running():
            await fleet.observe(
                [
                    (f"s{k}", hour, float((hour * k) % 7), ())
                    for hour in range(10 * 5)
                    for k in range(5)
                    if hour < 10 * (k + 1)
                ]
            )
            before = await fleet.forecast(sorted(fleet.series))
            await fleet.swap("2")
            answer = await fleet.forecast(sorted(fleet.series))
            assert answer.series_ids == before.series_ids
            assert len(answer.series_ids) == (5 if min_history == 1 else 3)
            for name, found, version in fleet.each(answer):
                assert version == "2"
                assert_same(found, fleet.series[name].forecast(bundle, last=24), name)

    run(scenario)


def test_a_journal_that_was_cut_short_leaves_the_rings(storage: Storage) -> None:
    async def scenario() -> None:
        bundle = OTHERS["other weights"]
        fleet = Fleet(storage, {"1": A, "2": bundle})
        async with fleet.running():
            for hour in range(40):
                await fleet.observe([(name, hour, float(hour % 7), ()) for name in ("a", "b", "c")])
            fleet.engine.snapshot()
            assert prune_all(storage, 37, keep_history=False)  # three rows of each are left
            await fleet.observe(walk("new", range(8), 3))
            await fleet.swap("2")
            for name, found, _ in fleet.each(await fleet.forecast(["a", "b", "c", "new"])):
                assert_same(found, fleet.series[name].forecast(bundle, last=24), name)
            await fleet.swap("1")  # from its snapshots
            await fleet.check()

    run(scenario)


def test_without_a_journal_series_that_begin_during_a_swap_move_too() -> None:
    async def scenario() -> None:
        fleet, calls = Fleet(VolatileStorage(), {"1": A, "2": OTHERS["other weights"]}), itertools.count()
        async with fleet.running():
            await fleet.observe([row for k in range(8) for row in walk(f"s{k}", range(10), k)])

            async def begin_one() -> None:
                number = next(calls)
                if number % 2:
                    await fleet.observe(walk(f"n{number}", range(5), number))

            await fleet.swap("2", hook=begin_one)
            fleet.batcher.hook = None
            assert next(calls) > 10
            await fleet.check()
            assert fleet.seen == {"2"}

    run(scenario)


def test_a_damaged_part_of_the_history_leaves_the_rings_of_those_that_need_it(
    storage: Storage, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        bundle = OTHERS["other weights"]
        fleet = Fleet(storage, {"1": A, "2": bundle})
        async with fleet.running():
            for hour in range(40):
                await fleet.observe([(name, hour, float(hour % 7), ()) for name in ("a", "b")])
            fleet.engine.snapshot()
            prune_all(storage, 38)
            for hour in range(40, 50):
                await fleet.observe([(name, hour, float(hour % 5), ()) for name in ("b", "new")])
            (path,) = tmp_path.rglob("*.parquet")
            path.write_bytes(path.read_bytes()[:-1] + b"?")
            await fleet.swap("2")
            for name, found, version in fleet.each(await fleet.forecast(["a", "b", "new"])):
                assert version == "2"
                assert_same(found, fleet.series[name].forecast(bundle, last=None if name == "new" else 24), name)
            told = re.findall(r"series \((.*)\) are rebuilt from what their states remember", caplog.text)
            assert {name for names in told for name in names.split(", ")} == {"a", "b"}

    run(scenario)


def test_a_lost_series_stays_lost_under_another_version(storage: Storage, tmp_path: pathlib.Path) -> None:
    """It must not begin anew in silence: neither by the swap nor at a later start."""

    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": OTHERS["other weights"]}, max_resident=2)
        async with fleet.running():
            for name in ("a", "b", "c"):
                await fleet.observe([(name, hour, float(hour % 7), ()) for hour in range(40)])
            fleet.engine.snapshot()
            prune_all(storage, 3, keep_history=False)
            with contextlib.closing(sqlite3.connect(tmp_path / "state" / "snapshots.db")) as database, database:
                database.execute("UPDATE snapshots SET state = x'00' WHERE series_id = 'a'")  # it is cold
            await fleet.swap("2")
            for engine in (fleet.engine, Engine(OTHERS["other weights"], storage, max_resident=2)):
                if engine is not fleet.engine:
                    engine.recover()
                answer = engine.forecast([ForecastWork(("a",), 5, (0.5,)), ForecastWork(("b",), 5, (0.5,))])
                assert [type(error) for error in answer[0].failures.values()] == [StateLostError]
                assert not answer[1].failures
                assert [bool(info.failure) for info in engine.page("", 9)[0]] == [True, False, False]

    run(scenario)
