"""A server that is killed again and again while clients work: what it acknowledged is there, once, and in every state.

Among the work: deletions, replacements of the model, new static covariates, gaps up to the longest and beyond, floods
of what is known, late and corrected values. `FORECASTER_KILLS=200 python -m pytest
tests/integration/server/test_server_kills.py` kills more often than the default.
"""

import os
import pathlib
import random
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import polars as pl
import pytest

from forecaster.client import ForecastClient
from forecaster.config import TrackingConfig
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Covariate, CovariateSpec
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns, Deletion, Issued
from tests.integration.conftest import START, Server, ServerFactory, register_bundle, wander
from tests.integration.nursery import Nursery
from tests.integration.server.feeds import GAP, RESIDENT, RETRY, Feed, clients
from tests.unit.serving import folding

KILLS = int(os.environ.get("FORECASTER_KILLS", "6"))
OPTIONS = (
    f"--serving.max_resident_series={RESIDENT}",
    f"--serving.max_batch_observations={RESIDENT}",
    f"--serving.max_request_observations={RESIDENT}",
    "--serving.snapshot_seconds=0.2",
    "--serving.journal_seconds=0.5",
    "--serving.replay_steps=1000000",  # a new version's states are those of the whole history
    "--serving.poll_seconds=1000",
)
SPEC = CovariateSpec(static=(Covariate("area", 50.0, 20.0),))
BUNDLES = {
    "1": folding.make_bundle(3, SPEC, season_lengths=(12,), min_history=12),
    "2": folding.make_bundle(4, SPEC, season_lengths=(6, 30), min_history=12, cell="lstm", num_layers=2),
}


@pytest.fixture
def replaceable(tracking: TrackingConfig, tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[ServerFactory]:
    """Return what starts servers of a registry with two versions."""
    assert folding.GAP == GAP
    for bundle in BUNDLES.values():
        register_bundle(tracking, bundle, wander(1, 40).with_columns(area=50.0))
    factory = ServerFactory(tracking, BUNDLES["1"], tmp_path, nursery)
    yield factory
    factory.end()


@pytest.fixture(params=["sqlite", "postgres"])
def state(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Return where the state lies."""
    if request.param == "sqlite":
        return str(tmp_path / "state")
    cluster = request.getfixturevalue("postgres")
    return str(cluster.url(cluster.create_database()))


def kill_again_and_again(servers: ServerFactory, server: Server, options: tuple[str, ...]) -> Server:
    """Kill servers while they serve, recover or start; return one that runs."""
    moments = random.Random(KILLS)
    for number in range(KILLS):
        time.sleep(moments.uniform(0.1, 1.5))
        server.kill()
        if number % 4 == 3:  # the next one does not live to serve, or not for long
            short = servers.begin(*options)
            time.sleep(moments.uniform(0.0, 0.5))
            short.kill()
        server = servers(*options)
    return server


Rows = dict[str, dict[int, float | None]]


def stored(state: str) -> tuple[Rows, int]:
    """Return the journal's fold, with its history, by series and hour; and how many forecasts are in it."""
    fold: Rows = {}
    issued = 0
    with closing(open_storage(state, "commit", "forecaster")) as storage:
        assert storage.journal.first_sequence() <= storage.journal.last_sequence()
        for _, record in storage.journal.read(0):
            if isinstance(record, Deletion):
                fold.pop(record.series_id, None)
            elif isinstance(record, Issued):
                issued += len(record)
            elif isinstance(record, Columns):
                hours = (record.time_us - int(START.timestamp() * 1e6)) // 3_600_000_000
                for code, hour, value in zip(
                    record.series.tolist(), hours.tolist(), record.values.tolist(), strict=True
                ):
                    rows = fold.setdefault(record.series_ids[code], {})
                    assert record.amends or not rows or hour > max(rows), "a row stands twice, or out of order"
                    rows[hour] = None if np.isnan(value) else value
    return fold, issued


def folded(feed: Feed, name: str) -> folding.Series:
    """Return what the acknowledged rows of a series make of it, by the plain reference."""
    series = folding.Series()
    for hour, value in sorted(feed.acknowledged[name].items()):
        area = feed.area.get(name, {}).get(hour)
        if area is not None:
            series.static = ({"area": area}, {})
        series.observe(hour + int(START.timestamp()) // 3600, np.nan if value is None else value)
    return series


def assert_states_are_the_fold(client: ForecastClient, feeds: list[Feed]) -> None:
    """Every series' forecast is that of one plain pass over what was acknowledged, by the version that is served."""
    series = {name: folded(feed, name) for feed in feeds for name in feed.acknowledged}
    names = [name for name, one in series.items() if sum(np.isfinite(value) for _, value, *_ in one.steps) >= 12]
    version, found = "", pl.DataFrame()
    while version != served(client):  # what was asked for before a kill is begun again soon after the start
        version = served(client)
        parts = [names[start : start + RESIDENT] for start in range(0, len(names), RESIDENT)]
        found = pl.concat([client.forecast(part, await_corrections=True) for part in parts])
    bundle: Bundle = BUNDLES[version]
    for (name,), mine in found.group_by("unique_id"):
        quantiles = np.stack([mine[f"q{level:g}"] for level in bundle.model.config.quantile_levels], axis=-1)
        folding.assert_same(quantiles, series[str(name)].forecast(bundle), str(name))
    assert found["unique_id"].n_unique() == len(names)


def scores(client: ForecastClient) -> dict[str, list[object]]:
    """Return the live scores of each series; the error, which rests on the states' scale, in three digits."""
    found: dict[str, list[object]] = {}
    for info in client.list_series():
        live = [(one.horizon, one.scored_count, one.coverage, one.calibrated_coverage) for one in info.live]
        found[info.unique_id] = [*live, *(f"{one.mase or 0:.3g}" for one in info.live)]
    return found


@pytest.mark.timeout(2400)
def test_killed_again_and_again(replaceable: ServerFactory, state: str) -> None:
    servers = replaceable
    options = (*OPTIONS, f"--serving.state={state}")
    if state.startswith("postgresql://"):
        options = (*options, "--serving.lease_seconds=1", "--serving.lease_wait_seconds=60")
    server = servers(*options)
    address = server.address
    options = (*options, f"--serving.port={address.rsplit(':', 1)[1]}")
    began = time.monotonic()
    with clients(address) as feeds:
        server = kill_again_and_again(servers, server, options)
    server.kill()
    acknowledged = {name: rows for feed in feeds for name, rows in feed.acknowledged.items()}
    fold, issued = stored(state)
    assert fold == acknowledged
    count, repeated = sum(map(len, fold.values())), sum(feed.duplicates for feed in feeds)
    amended = sum(feed.amended for feed in feeds)
    said = f"{count} rows, {amended} late or corrected, {issued} issued, {repeated} sent again"
    print(f"{KILLS} kills in {time.monotonic() - began:.0f} s: {said}")
    assert amended
    server = servers(*options)
    with ForecastClient(address, retry=RETRY) as client:
        assert {info.unique_id for info in client.list_series()} == set(acknowledged)
        assert_states_are_the_fold(client, feeds)
        before = scores(client)
        server.kill()
        server = servers(*options)
        served(client)
        assert scores(client) == before
    for log in (one.read_text() for one in servers.folder.glob("server-*.log")):
        assert not any(word in log for word in ("Traceback", "CRITICAL", "ERROR", "corrupted", "did not succeed")), log


def served(client: ForecastClient) -> str:
    """Return the version that is served once none is on its way any more."""
    deadline = time.monotonic() + 120
    while any(one.state in ("LOADING", "REBUILDING") for one in client.list_models()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return client.get_model().version
