"""A real server with a model that knows covariates, draws and searches paths, and forecasts the ends of series."""

import asyncio
import datetime as dt
import pathlib
from collections.abc import Iterator

import grpc
import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.errors import DataError, ForecasterError, InvalidArgumentError, SeriesNotFoundError, UnsupportedError
from forecaster.model.bundle import Bundle
from forecaster.model.covariates import Category, Covariate, CovariateSpec, with_attributes
from forecaster.model.decoders.beam import beam_search
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from forecaster.model.state import State
from forecaster.v1.forecast_service_pb2 import ObserveRequest, StreamForecastsRequest
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from forecaster.v1.observation_pb2 import SeriesAttributes
from tests.integration.conftest import HOUR_US, START, ServerFactory, register_bundle, wander
from tests.integration.nursery import Nursery
from tests.integration.test_cli import forecaster

HORIZON = 6
SPEC = CovariateSpec(
    past=(Covariate("rain", 1.0, 2.0),),
    future=(Covariate("price", 10.0, 3.0), Covariate("holiday", 0.1, 0.3)),
    static=(Covariate("area", 50.0, 20.0),),
    categories=(Category("region", ("north", "south")),),
)
AREAS, REGIONS = {"s0": 40.0, "s1": None, "s2": 70.0}, {"s0": "north", "s1": "south", "s2": "elsewhere"}


def make_bundle() -> Bundle:
    """Return a small model of everything that a server may have to serve, with random weights."""
    torch.manual_seed(5)
    config = ModelConfig(
        hidden_size=8,
        decoder_size=8,
        horizon=HORIZON,
        season_lengths=(12,),
        min_history=12,
        decoder="recurrent",
        head="categorical",
        num_bins=9,
        end_of_sequence=True,
        sample_paths=50,
    )
    model = Seq2Seq(config, HOUR_US, SPEC)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return Bundle.of(model, frequency="1h", max_gap_steps=48)


def beside(frame: pl.DataFrame) -> pl.DataFrame:
    """Add covariates, some missing, and a column that the model does not know."""
    hour = (pl.col("ds").dt.epoch("us") // HOUR_US) % 1000
    return frame.with_columns(
        rain=pl.when(hour % 5 > 0).then((hour % 7).cast(pl.Float64)),
        price=8.0 + hour % 6,
        holiday=hour % 24 == 3,
        area=pl.col("unique_id").replace_strict(AREAS, return_dtype=pl.Float64),
        region=pl.col("unique_id").replace_strict(REGIONS),
        note=pl.lit("seen"),
    )


def ahead(ids: list[str], start: int, price: float) -> pl.DataFrame:
    """Return prices of the hours from `start` on, in no order, and one that has passed."""
    rows = [(name, START + dt.timedelta(hours=start + k), price + k) for name in ids for k in (1, 0, 3, -1, 9)]
    schema = {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "price": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def ahead_tensor(n: int, price: float) -> torch.Tensor:
    """Return the same for the offline model, float64 [n, D, 2]."""
    future = torch.full((n, HORIZON, 2), torch.nan, dtype=torch.float64)
    future[:, [0, 1, 3], 0] = torch.tensor([price, price + 1, price + 3], dtype=torch.float64)
    return future


def offline(bundle: Bundle, hours: int) -> State:
    """Return the states of the three series after one plain pass over all hours."""
    model = bundle.model
    rows = beside(wander(3, hours)).sort("unique_id", "ds")
    values = torch.from_numpy(rows["y"].fill_null(np.nan).to_numpy().reshape(3, hours).copy())
    dynamic = rows.select(pl.col("rain", "price", "holiday").cast(pl.Float64).fill_null(np.nan)).to_numpy()
    times = torch.from_numpy(rows["ds"].dt.epoch("us").to_numpy().reshape(3, hours).copy())
    numbers = torch.tensor([[np.nan if x is None else x] for x in AREAS.values()], dtype=torch.float64)
    codes = torch.tensor([[1], [2], [0]])
    with torch.inference_mode():
        state = with_attributes(model.initial_state(3), numbers, codes)
        observations = Observations.of(times, values, torch.from_numpy(dynamic.reshape(3, hours, 3).copy()))
        return model.scan(state, observations)[0]


@pytest.fixture(scope="module")
def known(empty_store: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrackingConfig, Bundle]:
    """Return a store whose champion is that model."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
    bundle = make_bundle()
    example = beside(wander(1, 40)).drop("note").with_columns(pl.col("holiday").cast(pl.Float64))
    register_bundle(tracking, bundle, example)
    return tracking, bundle


@pytest.fixture
def servers(known: tuple[TrackingConfig, Bundle], tmp_path: pathlib.Path, nursery: Nursery) -> Iterator[ServerFactory]:
    """Return what starts servers of that model."""
    factory = ServerFactory(*known, tmp_path, nursery)
    yield factory
    factory.end()


IDS = ["s0", "s1", "s2"]


def assert_same_as_offline(client: ForecastClient, bundle: Bundle, hours: int) -> None:
    """Compare forecasts with and without a future, and the most probable paths, with the offline model's."""
    state = offline(bundle, hours)
    for price in (None, 9.0, 30.0):
        future = None if price is None else ahead(IDS, hours, price)
        tensor = None if price is None else ahead_tensor(3, price)
        with torch.inference_mode():
            expected = bundle.model.predict(state, HORIZON, tensor)
        found = client.forecast(IDS, future=future)
        for k, name in enumerate(IDS):
            mine = found.filter(unique_id=name)
            over = (expected.ended[k] > 0.5).nonzero()
            length = max(int(over[0]) if len(over) else HORIZON, 1)
            assert len(mine) == length
            np.testing.assert_allclose(mine["p_ended"], expected.ended[k, :length], atol=1e-9)
            for q, level in enumerate(bundle.model.config.quantile_levels):
                np.testing.assert_allclose(mine[f"q{level:g}"], expected.quantiles[k, :length, q], rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        origins = bundle.model.origins_at(state, HORIZON, ahead_tensor(3, 9.0))
        best = beam_search(bundle.model.decoder, origins, HORIZON, paths=4, width=16, length_power=0.5)
    found = client.beams(IDS, 4, length_power=0.5, future=ahead(IDS, hours, 9.0))
    for k, name in enumerate(IDS):
        for path in range(4):
            mine = found.filter(unique_id=name, path=path)
            length = int(best.lengths[k, path])
            np.testing.assert_allclose(mine["y_hat"], best.values[k, path, :length], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(mine["log_probability"], [best.log_probabilities[k, path]] * length, rtol=1e-4)


def test_the_journey_with_covariates(servers: ServerFactory) -> None:
    """Observe in bulk and by a stream, forecast what if, draw, search, kill -9, restart: always the offline model."""
    server = servers()
    with ForecastClient(server.address) as client:
        model = client.get_model()
        assert (model.past_covariates, model.future_covariates) == (("rain",), ("price", "holiday"))
        assert (model.static_covariates, model.static_categories) == (("area",), ("region",))
        assert (model.decoder, model.head, model.end_of_sequence) == ("recurrent", "categorical", True)
        result = client.observe(beside(wander(3, 50)))
        assert (result.applied, len(result.rejected)) == (150, 0)
        assert_same_as_offline(client, servers.bundle, 50)
        with client.stream(horizon=HORIZON) as stream:
            for hour in range(50, 54):
                reply = stream.send(beside(wander(3, 1, start=hour)), future=ahead(IDS, hour + 1, 9.0))
                assert reply.observed.applied == 3
        assert_frame_equal(reply.forecasts, client.forecast(IDS, future=ahead(IDS, 54, 9.0)), rel_tol=1e-5)
        assert client.observe(beside(wander(3, 54))).duplicates == 162
        assert_same_as_offline(client, servers.bundle, 54)
        drawn = client.paths(IDS, 20, seed=7)
        best = client.beams(["s1"], 3, horizon=2)
    server.kill()
    server = servers()
    with ForecastClient(server.address) as client:
        assert_same_as_offline(client, servers.bundle, 54)
        assert_frame_equal(client.paths(IDS, 20, seed=7), drawn, rel_tol=1e-4)
        assert_frame_equal(client.beams(["s1"], 3, horizon=2), best, rel_tol=1e-4)
    assert server.stop() == 0
    server = servers()
    assert "0 observations replayed" in server.log.read_text()
    with ForecastClient(server.address) as client:
        assert_same_as_offline(client, servers.bundle, 54)


def test_known_futures_are_scored_and_assumptions_are_not(servers: ServerFactory) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(beside(wander(2, 30)))
        for hour in range(30, 36):
            client.forecast(["s0"], future=ahead(["s0"], hour, 9.0))
            client.forecast(["s1"], future=ahead(["s1"], hour, 9.0), what_if=True)
            client.observe(beside(wander(2, 1, start=hour)), send_trailing=True)  # with what is missing
        known, assumed = (client.get_series(name).live[0].scored_count for name in ("s0", "s1"))
        there = wander(2, 36).filter(pl.col("unique_id") == "s0")["y"][30:].count()  # some values are missing
        assert (known, assumed) == (there, 0)
        with pytest.raises(InvalidArgumentError, match="nothing is assumed without"):
            client.forecast(["s0"], what_if=True)


def test_paths_repeat_by_seed_and_beams_are_sorted(servers: ServerFactory) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(beside(wander(3, 30)))
        three, alone = client.paths(IDS, 30, seed=1), client.paths(["s1"], 30, seed=1)
        assert_frame_equal(three.filter(unique_id="s1"), alone, rel_tol=1e-5)
        assert not three.equals(client.paths(IDS, 30, seed=2))
        short = client.paths(["s1"], 30, seed=1, horizon=2)
        first_two = alone.filter(pl.int_range(pl.len()).over("path") < 2)
        assert_frame_equal(short, first_two, rel_tol=1e-5)
        lengths = alone.group_by("path").len()["len"]
        assert alone["path"].n_unique() == 30
        assert 1 <= lengths.min() < lengths.max() <= HORIZON
        best = client.beams(IDS, 10)
        for name in IDS:
            logs = best.filter(unique_id=name).group_by("path", maintain_order=True).first()["log_probability"]
            assert len(logs) == 10
            assert logs.is_sorted(descending=True)
            assert logs.max() <= 0
        holiday = pl.DataFrame({"ds": [START + dt.timedelta(hours=30)], "holiday": [1.0]})  # of every series
        assert not client.forecast(IDS, future=holiday).equals(client.forecast(IDS))


def test_static_covariates_may_come_alone_and_hold(servers: ServerFactory) -> None:
    async def talk() -> None:
        async with AsyncForecastClient(servers().address) as client:
            history = beside(wander(3, 30))
            await client.observe(history.drop("area", "region"))
            before = await client.forecast(IDS)
            assert (await client.observe(history.filter(unique_id="s0"))).duplicates == 30  # only static ones are new
            assert (await client.get_series("s0")).static == {"area": AREAS["s0"], "region": REGIONS["s0"]}
            assert (await client.get_series("s1")).static == {}
            assert [info.static async for info in client.list_series()] == [{}, {}, {}]
            after = await client.forecast(IDS)
            assert not after.filter(unique_id="s0").equals(before.filter(unique_id="s0"))
            assert after.filter(unique_id="s1").equals(before.filter(unique_id="s1"))
            await client.observe(history.filter(unique_id="s0"))
            assert (await client.forecast(IDS)).equals(after)
            assert len(await client.paths(["s0"], 3, horizon=1)) == 3
            assert len(await client.beams(["s0"], 3, horizon=1)) == 3

    asyncio.run(talk())


def test_what_is_wrong_is_refused_whole(servers: ServerFactory) -> None:
    server = servers()
    with ForecastClient(server.address) as client:
        client.observe(beside(wander(1, 30)))
        check_static_covariates_alone(server.address, client)
        later = beside(wander(1, 1, start=30))
        with pytest.raises(
            InvalidArgumentError, match=r"columns\.covariates\[0\]\.values\[0\]: inf is not a finite number"
        ):
            client.observe(later.with_columns(rain=float("inf")))
        with pytest.raises(DataError, match="'area' changes within series 's0'"):
            client.observe(pl.concat([later, beside(wander(1, 1, start=31)).with_columns(area=1.0)]))
        with pytest.raises(DataError, match="no column of the model's known-future covariates, which are: price"):
            client.forecast(["s0"], future=later.select("ds", "rain"))
        with pytest.raises(InvalidArgumentError, match="the future is of other series, such as 's9'"):
            client.forecast(["s0"], future=ahead(["s9"], 30, 1.0))
        with pytest.raises(InvalidArgumentError, match="off the grid of 's0'"):
            client.forecast(["s0"], future=later.select("unique_id", pl.col("ds") + dt.timedelta(minutes=5), "price"))
        with pytest.raises(InvalidArgumentError, match="1001 is not 0 to 1000"):
            client.paths(["s0"], 1001)
        assert client.get_series("s0").length == 30


def check_static_covariates_alone(address: str, client: ForecastClient) -> None:
    """Static covariates need no observation, but a series; seen by a client that is not ours."""
    before = client.forecast(["s0"])
    with grpc.insecure_channel(address) as channel:
        stub = ForecastServiceStub(channel)
        moved = SeriesAttributes(series_id="s0", numbers={"area": 90.0}, categories={"region": "south"})
        assert list(stub.Observe(ObserveRequest(attributes=[moved])).outcomes) == []
        after = client.forecast(["s0"])
        assert not after.equals(before)
        assert client.get_series("s0").static == {"area": 90.0, "region": "south"}
        again = next(stub.StreamForecasts(iter([StreamForecastsRequest(sequence=4, attributes=[moved])])))
        assert (again.sequence, len(again.outcomes)) == (4, 0)
        assert client.forecast(["s0"]).equals(after)
        moved.series_id = "nobody"
        with pytest.raises(grpc.RpcError, match="no series 'nobody', and no observation of it") as refused:
            stub.Observe(ObserveRequest(attributes=[moved]))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_covariates_from_the_shell(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    server = servers()
    history = beside(wander(2, 30)).with_columns(pl.col("ds").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    history.write_csv(tmp_path / "history.csv")
    prices = history.tail(1).select(ds=pl.lit("2024-01-02 06:00"), price=pl.lit(30.0))
    prices.write_csv(tmp_path / "prices.csv")
    prices.with_columns(unique_id=pl.lit("s1")).write_parquet(tmp_path / "prices.parquet")

    def shell(*arguments: str) -> str:
        done = forecaster(*arguments, "--server", server.address, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert shell("observe", "--data.path", "history.csv") == "60 applied, 0 known already, 0 refused\n"
    with ForecastClient(server.address) as client:
        sent = client.forecast(["s0", "s1"])
        assert client.observe(beside(wander(3, 30)).filter(unique_id="s2")).applied == 29  # its last is missing
    plain = shell("forecast", "s0", "s1")
    assert "p_ended" in plain
    assert len([line for line in plain.splitlines() if "2024-" in line]) == len(sent)
    assert shell("forecast", "s1", "--future", "prices.csv") == shell("forecast", "s1", "--future", "prices.parquet")
    assert shell("forecast", "s1", "--future", "prices.csv") != shell("forecast", "s1")
    drawn = shell("forecast", "s1", "--horizon", "1", "--paths", "5", "--seed", "3")
    assert len([line for line in drawn.splitlines() if "2024-" in line]) == 5
    assert drawn == shell("forecast", "s1", "--horizon", "1", "--paths", "5", "--seed", "3")
    assert "log_probability" in shell("forecast", "s1", "--beams", "2")
    for options, text in (
        (("--paths", "2", "--beams", "2"), "error: ask for --paths or for --beams, not for both\n"),
        (("--future", "nowhere.csv"), "error: no such file: path='nowhere.csv'"),
    ):
        done = forecaster("forecast", "s1", *options, "--server", server.address, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(text)


def test_another_model_does_not_draw(
    registered: tuple[TrackingConfig, Bundle], tmp_path: pathlib.Path, servers: ServerFactory
) -> None:
    plain = ServerFactory(*registered, tmp_path / "plain", servers.nursery, servers.started)
    plain.folder.mkdir()
    with ForecastClient(plain().address) as client:
        client.observe(beside(wander(1, 30)))  # whose covariates it does not know
        with pytest.raises(UnsupportedError, match="recurrent"):
            client.paths(["s0"], 3)
        with pytest.raises(UnsupportedError, match="recurrent"):
            client.beams(["s0"], 3)


def test_rows_of_the_time_ahead_are_no_observations(servers: ServerFactory) -> None:
    """A file of observations with the known future behind them, as training takes it: not a missing day."""
    server = servers()
    history = beside(wander(3, 42))  # every series' last value is there
    hours = pl.datetime_range(START + dt.timedelta(hours=42), START + dt.timedelta(hours=45), "1h", eager=True)
    future = pl.concat(
        [pl.DataFrame({"unique_id": name, "ds": hours.cast(pl.Datetime("us", "UTC")), "price": 20.0}) for name in IDS]
    )
    with ForecastClient(server.address) as client:
        result = client.observe(pl.concat([history, future], how="diagonal").sort("ds"))
        assert (result.applied, len(result.rejected)) == (3 * 42, 0)
        assert result.future is not None
        assert_frame_equal(result.future.drop("holiday"), future)
        assert client.get_series("s0").expected_ds == START + dt.timedelta(hours=42)
        told = client.forecast(IDS, future=result.future)
        assert_frame_equal(told, client.forecast(IDS, future=future))
        assert not told.equals(client.forecast(IDS))
        true = beside(wander(3, 1, start=42))
        assert client.observe(true).applied == 3
        missing = beside(wander(3, 1, start=43)).with_columns(y=pl.lit(None, pl.Float64))
        assert client.observe(missing).applied == 0
        assert client.observe(missing, send_trailing=True).applied == 3
        with client.stream() as stream:
            assert stream.send(beside(wander(3, 1, start=44)).with_columns(y=None)).observed.applied == 3


def test_what_cannot_be_forecast_is_told_and_what_is_too_large_is_split(servers: ServerFactory) -> None:
    server = servers("--serving.max_request_observations=50")
    nobody = [f"nobody {k}" for k in range(1000)]
    with ForecastClient(server.address) as client:
        client.observe(beside(wander(3, 40)))
        client.observe(beside(wander(3, 3)).with_columns(unique_id=pl.lit("young ") + pl.col("unique_id")))
        drawing = {
            "paths": lambda ids, **more: client.paths(ids, 1000, **more),
            "beams": lambda ids, **more: client.beams(ids, 700, **more),
        }
        for ask in (client.forecast, *drawing.values()):
            whole = ask(IDS)
            found = ask([*nobody[:500], "s2", "young s0", "s0", *nobody[500:], "s1"], allow_partial=True)
            assert found.forecasts["unique_id"].unique(maintain_order=True).to_list() == ["s2", "s0", "s1"]
            if "path" not in whole:  # a draw may tip over by the last digit, which depends on who is in the batch
                expected = pl.concat([whole.filter(unique_id=name) for name in ("s2", "s0", "s1")])
                assert_frame_equal(found.forecasts, expected, rel_tol=1e-3)
            reasons = dict(found.failures.select("unique_id", "reason").rows())
            assert reasons == dict.fromkeys(nobody, "SERIES_NOT_FOUND") | {"young s0": "TOO_LITTLE_HISTORY"}
            with pytest.raises(ForecasterError, match=r"no series 'nobody 0'.* \(1001 series have no forecast\)"):
                found.raise_for_failures()
            with pytest.raises(SeriesNotFoundError):
                ask([*IDS, *nobody])
        none = client.forecast(nobody, allow_partial=True)
        assert (len(none.forecasts), len(none.failures)) == (0, 1000)
        with pytest.raises(InvalidArgumentError, match="series_ids"):
            client.forecast([])

    async def awaited() -> None:
        async with AsyncForecastClient(server.address) as client:
            many = await client.paths([*nobody, "s0"], 1000, seed=1, allow_partial=True)
            assert (many.forecasts["unique_id"].unique().to_list(), len(many.failures)) == (["s0"], 1000)
            alone = await client.paths("s0", 1000, seed=1)
            assert len(many.forecasts) == pytest.approx(len(alone), rel=0.01)
            with pytest.raises(SeriesNotFoundError):
                await client.forecast([f"nobody {k}" for k in range(20_000)])

    asyncio.run(awaited())
