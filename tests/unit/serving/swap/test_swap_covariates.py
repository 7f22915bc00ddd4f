"""A model of other covariates, seasons and memory takes a served one's place, fed from the same journal by name."""

import math
import pathlib
from contextlib import closing

import numpy as np
import pytest
import torch

from forecaster.errors import BundleError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Category, Covariate, CovariateSpec
from forecaster.model.fit import misfit, same_grid
from forecaster.model.seq2seq import Seq2Seq
from forecaster.serving.lanes.known_covariates import united
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.swap.verification import verify
from forecaster.serving.work.forecasting import ForecastWork, Futures
from tests.unit.model.family import SPEC
from tests.unit.serving.folding import HORIZON, HOUR_US, Series, Static, assert_same, make_bundle, walk, work
from tests.unit.serving.swapping import Fleet, run

pytestmark = pytest.mark.usefixtures("small_parts")

OTHER = CovariateSpec(
    past=(Covariate("wind", 3.0, 2.0), Covariate("price", 9.0, 2.0)),
    future=(Covariate("rain", 1.0, 2.0),),
    static=(Covariate("height", 5.0, 2.0), Covariate("area", 40.0, 10.0)),
    categories=(Category("region", ("east", "south")),),
)
KINDS: dict[str, CovariateSpec] = {"none": CovariateSpec(), "some": SPEC, "others": OTHER}
EVERY = united(SPEC, OTHER).dynamic


def static_of(k: int) -> Static:
    return {"area": 10.0 * k, "height": 3.0 + k}, {"region": ("north", "south", "east")[k % 3], "kind": "b"}


@pytest.mark.parametrize(("before", "after"), [("some", "none"), ("none", "some"), ("some", "others")])
def test_it_equals_the_offline_fold_before_between_and_after(before: str, after: str, storage: Storage) -> None:
    """What nobody knew when it was sent is missing; what one of the two versions knows counts from then on."""
    bundles = {
        "1": make_bundle(1, KINDS[before]),
        "2": make_bundle(2, KINDS[after], cell="lstm", season_lengths=(5, 30), hidden_size=9),
    }

    async def scenario() -> None:
        fleet, turn = Fleet(storage, bundles, max_resident=3), 0
        fleet.series = {f"s{k}": Series(EVERY) for k in range(4)}

        async def send(names: list[str], static: bool) -> None:
            nonlocal turn
            turn += 1
            known = fleet.engine.lanes.covariates.dynamic
            given: dict[str, Static] = {}
            for k, name in enumerate(names):
                one = fleet.series[name]
                hours = [one.steps[-1][0] + 1 if one.steps else 0]
                ((_, hour, value, beside),) = walk(name, hours, turn + k, len(EVERY))
                sent = tuple(x if n in known else math.nan for n, x in zip(EVERY, beside, strict=True))
                if static:
                    one.static = given[name] = static_of(k + turn)
                answer = await fleet.batcher.observe(work([(name, hour, value, sent)], given, EVERY))
                given = {}
                assert not answer.errors
                one.observe(hour, value, sent)

        async with fleet.running():
            for start in range(6):
                await send(sorted(fleet.series), static=start == 0 and bool(KINDS[before]))

            async def traffic() -> None:
                await send([f"s{turn % 4}"], static=turn % 5 == 0 and before != "none")
                if turn % 6 == 0:
                    await fleet.check()

            for version in ("2", "1"):
                await fleet.swap(version, hook=traffic)
                fleet.batcher.hook = None
                await traffic()
                await fleet.check()

    run(scenario)


def test_assumptions_go_by_name_while_both_versions_serve(tmp_path: pathlib.Path) -> None:
    """`price` is known ahead to the one, `rain` to the other; each series takes what its version knows."""
    bundles = {"1": make_bundle(1, SPEC), "2": make_bundle(2, OTHER)}
    names = tuple(one.name for one in united(SPEC, OTHER).future)
    values = {name: np.linspace(0, 4, HORIZON) + k for k, name in enumerate(names)}

    async def scenario(storage: Storage) -> None:
        fleet, seen = Fleet(storage, bundles), set[str]()
        ids = tuple(f"s{k}" for k in range(4))
        levels = bundles["1"].model.config.quantile_levels

        async def ask() -> None:
            table = np.stack([values[name] for name in names], axis=1)
            every = np.broadcast_to(table, (len(ids), *table.shape))
            n = len(ids)
            future = Futures(np.arange(n), np.zeros(n, bool), np.zeros(n, np.int64), every, names)
            answer = await fleet.batcher.forecast(ForecastWork(ids, HORIZON, levels, (future,)))
            assert not answer.failures
            for name, found, version in fleet.each(answer):
                bundle = bundles[version]
                mine = np.stack([values[one.name] for one in bundle.model.covariates.future], axis=1)
                expected = fleet.series[name].forecast(bundle, torch.from_numpy(mine)[None])
                assert_same(found, expected, f"{name}, version {version}")
                seen.add(version)

        async with fleet.running():
            for k, name in enumerate(ids):
                await fleet.observe(walk(name, range(12), k, 3))
            await fleet.swap("2", hook=ask)
            fleet.batcher.hook = None
            assert seen == {"1", "2"}

    with closing(open_storage(str(tmp_path), "interval")) as storage:
        run(lambda: scenario(storage))


def test_only_another_time_grid_is_a_reason_to_refuse() -> None:
    plain = make_bundle(1)
    half = Bundle.of(Seq2Seq(plain.model.config, HOUR_US // 2, CovariateSpec()), frequency="30m", max_gap_steps=3)
    assert same_grid(plain, make_bundle(2, SPEC, season_lengths=(5, 30)))
    assert not misfit(make_bundle(2, OTHER), plain)
    assert not same_grid(half, plain)
    verify(make_bundle(2, OTHER), plain)
    with pytest.raises(BundleError, match="another time grid, a step of 30m, the served one 1h"):
        verify(half, plain)


def test_covariates_are_united_by_name() -> None:
    both = united(SPEC, OTHER)
    assert [one.name for one in both.future] == ["price", "holiday", "rain"]
    assert [one.name for one in both.past] == ["wind"]
    assert [one.name for one in both.static] == ["area", "height"]
    assert [one.name for one in both.categories] == ["region", "kind"]
    assert united(SPEC, SPEC) == SPEC == united(CovariateSpec(), SPEC) == united(SPEC, CovariateSpec())
