"""Every pair of options and kinds of covariates from a file to a registered bundle, forecast in each way there is."""

import datetime as dt
import io
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from mlflow.pyfunc.model import PythonModelContext

from forecaster.compare.outcome import cost_of
from forecaster.config import Config, DataConfig, ModelConfig, TrackingConfig, TrainingConfig
from forecaster.data.schema import read_frame
from forecaster.data.windows import known_future, latest_segments
from forecaster.evaluation.rolling import forecast
from forecaster.evaluation_report import evaluate
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.training.run.job import train
from tests.covering import Row
from tests.unit.model.family import OPTIONS, changes_of, family

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
STEPS, HORIZON = 120, 4
DATA = DataConfig(
    past_covariates=("rain",),
    future_covariates=("price", "holiday"),
    static_covariates=("area",),
    static_categories=("region",),
    end_column="over",
)


COLUMNS = {
    "past": "past_covariates",
    "future": "future_covariates",
    "static": "static_covariates",
    "categories": "static_categories",
}
# What a configuration refuses, as nothing is known ahead that the second direction could read.
REFUSED = {"bidirectional": (True,), "calendar": (False,), "future": (False,)}
TRAINED = family({name: values for name, values in OPTIONS.items() if name not in ("computed", "members")}, [REFUSED])


def known_of(row: Row) -> dict[str, object]:
    """Return the columns of the covariates that a row of a family asks for."""
    return {column: getattr(DATA, column) for kind, column in COLUMNS.items() if row[kind]}


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write three series of small counts with everything beside them, and the prices of the next four hours."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(3):
        steps = np.arange(STEPS + HORIZON)
        frame = pl.DataFrame(
            {
                "ds": [START + dt.timedelta(hours=int(hour)) for hour in steps],
                "y": rng.poisson(6 + 4 * np.sin(steps * math.tau / 12)).astype(float),
                "rain": rng.normal(size=len(steps)),
                "price": rng.normal(size=len(steps)),
                "holiday": steps % 24 < 4,
                "area": 10.0 * index,
                "region": ["north", "south", None][index],
                "over": False,
            }
        )
        ahead = pl.int_range(pl.len()) >= STEPS
        hidden = pl.lit(pl.Series(rng.random(len(steps)) < 0.1))
        frame = frame.with_columns(
            y=pl.when(~ahead).then("y"),
            rain=pl.when(~ahead & ~hidden).then("rain"),
            price=pl.when(~hidden).then("price"),
        )
        frames.append(frame.with_columns(unique_id=pl.lit(f"s{index}")))
    path = tmp_path_factory.mktemp("family") / "shops.csv"
    pl.concat(frames).write_csv(path)
    return str(path)


def configure(csv: str, tracking: TrackingConfig, changes: dict[str, object], **data: object) -> Config:
    model = {"hidden_size": 8, "decoder_size": 8, "horizon": HORIZON, "season_lengths": (5, 14)} | changes
    model |= {"sample_paths": 8} if model.get("decoder") == "recurrent" else {}
    if model.get("attention", "none") == "none":
        model.pop("attention_steps", None)
    training = TrainingConfig(max_epochs=1, min_updates=4, chunk_steps=24, validation_steps=8, gradient_lags=True)
    ends = {"end_column": DATA.end_column} if model.get("end_of_sequence") else {}
    where = {"path": csv, **ends, **data}
    return Config(
        data=DataConfig(**where),  # type: ignore[arg-type]
        model=ModelConfig(**model),  # type: ignore[arg-type]
        training=training,
        tracking=tracking,
    )


@pytest.mark.parametrize("name", TRAINED)
def test_every_architecture_trains_registers_loads_and_forecasts(
    name: str, csv: str, tracking: TrackingConfig, tmp_path: Path
) -> None:
    row = TRAINED[name]
    config = configure(csv, tracking, changes_of(row), **known_of(row))
    result = train(config, stream=io.StringIO(), challenger=True)
    _, bundle = registry.load_bundle(tracking, result.model.version)
    assert bundle.fingerprint == result.fit.bundle.fingerprint
    frame = read_frame(config.data)
    series = latest_segments(frame, bundle.step_us, bundle.max_gap_steps, config.data)
    future = torch.from_numpy(known_future(frame, series, HORIZON, config.data))
    quantiles = forecast(bundle.model, series, HORIZON, future)
    assert quantiles.shape == (3, HORIZON, len(bundle.model.config.quantile_levels))
    assert bool(torch.isfinite(quantiles).all())
    assert (quantiles.diff(dim=-1) >= 0).all()
    report = evaluate(config, version=result.model.version, since=START + dt.timedelta(hours=STEPS - 12))
    assert math.isfinite(report.metrics()["model"]["mase"])
    assert cost_of(bundle.model)["state_bytes"] == bundle.model.state_spec.num_bytes
    columns = ["unique_id", "ds", "y", *config.data.beside]
    assert_mlflow_forecasts_so(bundle, quantiles, frame, tmp_path / "bundle", columns)

    client = registry.connect(tracking)
    run = client.get_run(result.run_id).data
    assert ("exposure_gap" in run.metrics) == (config.model.decoder == "recurrent")
    if config.model.decoder == "recurrent":
        gap = run.metrics["free_running_loss"] - run.metrics["teacher_forced_loss"]
        assert run.metrics["exposure_gap"] == pytest.approx(gap, abs=1e-6)
    lags = client.get_metric_history(result.run_id, "gradient_norm_by_lag")
    assert [point.step for point in lags] == list(range(len(result.fit.gradient_norms)))
    figures = {file.path for file in client.list_artifacts(result.run_id, "figures")}
    assert ("figures/gradient_norms.png" in figures) == bool(result.fit.gradient_norms)
    if bundle.model.covariates:
        spec = json.loads(Path(client.download_artifacts(result.run_id, "covariates.json")).read_text())
        assert spec["categories"] == ([{"name": "region", "values": ["north", "south"]}] if row["categories"] else [])
        assert [one["name"] for one in spec["future"]] == (["price", "holiday"] if row["future"] else [])


def assert_mlflow_forecasts_so(
    bundle: Bundle, quantiles: torch.Tensor, frame: pl.DataFrame, folder: Path, columns: list[str]
) -> None:
    """Let MLflow's model forecast from the rows: the same, at the times behind them."""
    from forecaster.registry.pyfunc_model import PyfuncForecaster

    bundle.save(folder)
    model = PyfuncForecaster()
    model.load_context(PythonModelContext({"bundle": str(folder)}, {}))
    found = model.predict(None, frame.with_columns(pl.col("ds").dt.replace_time_zone(None)).to_pandas()[columns])
    median = quantiles[..., bundle.model.config.quantile_levels.index(0.5)]
    counts = bundle.model.config.head == "negative_binomial"  # one off where a probability lies between two
    np.testing.assert_allclose(found["y_hat"], median.flatten(), rtol=1e-4, atol=1.0 if counts else 1e-5)


def test_mlflow_forecasts_with_the_known_future(csv: str, tracking: TrackingConfig) -> None:
    import mlflow.pyfunc

    config = configure(csv, tracking, {}, **{column: getattr(DATA, column) for column in COLUMNS.values()})
    result = train(config, stream=io.StringIO(), challenger=True)
    mlflow.set_tracking_uri(tracking.uri)
    model = mlflow.pyfunc.load_model(f"models:/forecaster/{result.model.version}")
    names = [column.name for column in model.metadata.signature.inputs.inputs]
    assert names == ["unique_id", "ds", "y", "rain", "price", "holiday", "area", "region"]
    example = model.input_example
    assert example["y"].isna().to_numpy()[-HORIZON:].all()  # the known future
    assert example["price"].notna().to_numpy()[-HORIZON:].any()
    assert len(model.predict(example)) == HORIZON

    frame = read_frame(config.data)
    rows = frame.with_columns(pl.col("ds").dt.replace_time_zone(None)).to_pandas()[names]
    found = model.predict(rows)
    assert found["ds"].tolist() == [dt.datetime(2024, 1, 6) + dt.timedelta(hours=k) for k in range(HORIZON)] * 3
    series = latest_segments(frame, config.data.step_us, config.data.max_gap_steps, config.data)
    future = torch.from_numpy(known_future(frame, series, HORIZON, config.data))
    expected = forecast(result.fit.bundle.model, series, HORIZON, future)
    median = expected[..., result.fit.bundle.model.config.quantile_levels.index(0.5)]
    np.testing.assert_allclose(found["y_hat"], median.flatten(), rtol=1e-5)
    blind = model.predict(rows[rows["y"].notna() | (rows["ds"] < "2024-01-06")])
    assert blind["ds"].tolist() == found["ds"].tolist()
    assert not np.allclose(blind["y_hat"], found["y_hat"])
    rows.loc[rows["unique_id"] == "s0", "region"] = "east"  # not seen in training
    assert np.isfinite(model.predict(rows)["y_hat"]).all()
