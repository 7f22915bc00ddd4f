"""A series whose state is not made of finite numbers any more fails alone, and starts afresh."""

import numpy as np
import pytest

from forecaster.errors import BrokenStateError, BundleError, TooLittleHistoryError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.work.forecasting import ForecastWork, Sampling
from tests.unit.serving.folding import HORIZON, HOUR_US, assert_same, folded, make_bundle, walk, work
from tests.unit.serving.storages import prune_all
from tests.unit.serving.swapping import A, Fleet, run

# Its hidden vectors grow for as long as a series lasts.
GROWING = make_bundle(5, cell="rnn_relu", initialization="identity", hidden_size=16)
LONG, SHORT = 3000, 30
LEVELS = GROWING.model.config.quantile_levels


def test_it_fails_alone_and_starts_afresh(storage: Storage) -> None:
    engine = Engine(GROWING, storage, version="7")
    for name, hours in (("long", LONG), ("short", SHORT)):
        engine.observe([work(walk(name, range(hours), 1))])
    both = [ForecastWork((name,), HORIZON, LEVELS) for name in ("long", "short")]
    answers = engine.forecast([*both, both[0], ForecastWork(("short", "long"), HORIZON, LEVELS)])
    for answer in answers:
        assert np.isfinite(answer.quantiles).all()
        assert set(answer.failures) <= {"long"}
        assert set(answer.failures) | set(answer.series_ids) == {"long", "short"} or len(answer.failures) <= 1
    assert [len(answer.failures) for answer in answers] == [1, 0, 1, 1]
    assert isinstance(answers[0].failures["long"], BrokenStateError)
    assert "version 7" in str(answers[0].failures["long"])
    expected = folded(walk("short", range(SHORT), 1)).forecast(GROWING)
    assert_same(answers[1].quantiles[0], expected, "short")
    again = engine.forecast(both[:1])[0]
    assert isinstance(again.failures["long"], TooLittleHistoryError)
    assert engine.describe("long").length == 0
    assert (engine.observe([work(walk("long", range(LONG), 1)[-40:])])[0].outcomes == 2).all()  # nothing is forgotten
    later = walk("long", range(LONG, LONG + 20), 2)
    assert (engine.observe([work(later)])[0].outcomes == 1).all()
    assert_same(engine.forecast(both[:1])[0].quantiles[0], folded(later).forecast(GROWING), "long")
    engine.snapshot()
    restarted = Engine(GROWING, storage, version="7")
    restarted.recover()
    assert_same(restarted.forecast(both[:1])[0].quantiles[0], folded(later).forecast(GROWING), "long")


def test_it_fails_alone_among_requests_for_paths(storage: Storage) -> None:
    growing = make_bundle(
        5, cell="rnn_relu", initialization="identity", hidden_size=16, decoder="recurrent", sample_paths=4
    )
    engine = Engine(growing, storage)
    for name, hours in (("long", LONG), ("short", SHORT)):
        engine.observe([work(walk(name, range(hours), 1))])
    answer = engine.forecast([ForecastWork(("long", "short"), HORIZON, (0.5,), drawing=Sampling(3, 0))])[0]
    assert answer.series_ids == ("short",)
    assert answer.drawn is not None
    assert np.isfinite(answer.drawn.values).all()
    assert isinstance(answer.failures["long"], BrokenStateError)


def test_it_stops_no_swap(storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": GROWING})
        async with fleet.running():
            for name, hours in (("a", SHORT), ("long", LONG), ("b", SHORT)):
                await fleet.observe(walk(name, range(hours), 1))
            await fleet.swap("2")
            answer = await fleet.forecast(["a", "b"])
            for name, found, version in fleet.each(answer):
                assert version == "2"
                assert_same(found, fleet.series[name].forecast(GROWING), name)
            later = walk("long", range(LONG, LONG + 20), 2)
            await fleet.observe(later)
            found = (await fleet.forecast(["long"])).quantiles[0]
            assert_same(found, folded(later).forecast(GROWING), "long")
            await fleet.swap("1")
            assert_same((await fleet.forecast(["long"])).quantiles[0], folded(later).forecast(A), "long")

    run(scenario)


@pytest.mark.parametrize("pruned", [False, True])
def test_another_version_begins_with_what_came_before(pruned: bool, storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": GROWING})
        async with fleet.running():
            for name, hours in (("a", SHORT), ("long", LONG), ("b", SHORT)):
                await fleet.observe(walk(name, range(hours), 1))
            fleet.engine.snapshot()
            await fleet.swap("2")
            storage.snapshots.drop(A.fingerprint)
            if pruned:  # nothing is left of it
                fleet.engine.snapshot()
                prune_all(storage, 3, keep_history=False)
            await fleet.swap("1", replay_steps=500)
            info = await fleet.batcher.call(lambda: fleet.engine.describe("long"))
            assert (info.clock_us, info.length) == ((LONG - 1) * HOUR_US, 0 if pruned else 500)
            answer = await fleet.forecast(["a", "b", "long"])
            assert sorted(answer.failures) == (["long"] if pruned else [])
            if not pruned:
                assert_same(answer.quantiles[2], fleet.series["long"].forecast(A, last=500), "long")
            await fleet.observe([("long", LONG, 5.0, ())])
            assert np.isfinite((await fleet.forecast(["long"])).quantiles).all()

    run(scenario)


def test_a_version_that_breaks_most_series_takes_nobodys_place(storage: Storage) -> None:
    async def scenario() -> None:
        fleet = Fleet(storage, {"1": A, "2": GROWING})
        async with fleet.running():
            for name, hours in (("a", SHORT), ("long", LONG), ("longer", LONG + 5)):
                await fleet.observe(walk(name, range(hours), 1))
            with pytest.raises(BundleError, match="2 of 3 series"):
                await fleet.swap("2")
            await fleet.check()
            assert fleet.seen == {"1"}

    run(scenario)
