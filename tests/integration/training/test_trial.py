"""Nothing becomes champion before a process of its own has loaded it, observed, and forecast from it."""

import dataclasses
import io
import pathlib
import shutil

import polars as pl
import pytest

from forecaster.config import Config, DataConfig, TrackingConfig
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import to_segments
from forecaster.errors import UnavailableError
from forecaster.model.bundle import Bundle
from forecaster.registry import registry
from forecaster.registry.trial import try_version
from forecaster.serving.trial import try_here
from forecaster.training.fit import fit
from forecaster.training.run.job import train
from pipelines.backtest.step import backtest
from pipelines.context import Context
from pipelines.promotion.step import promote
from tests.integration.pipelines import promoting
from tests.integration.training.test_trained_covariates import configure, driven

BESIDE = DataConfig(past_covariates=("x",), static_categories=("region",))


def frame() -> pl.DataFrame:
    """Return series with a past covariate and a region."""
    return driven(1).with_columns(region=pl.when(pl.col("unique_id") < "s2").then(pl.lit("north")))


def overflowing(bundle: Bundle) -> Bundle:
    """Return a bundle whose weights are all finite, and whose forecasts are not."""
    for parameter in bundle.model.parameters():
        parameter.data.fill_(1e38)
    return Bundle.of(bundle.model, frequency=bundle.frequency, max_gap_steps=bundle.max_gap_steps)


def trained(config: Config, tracking: TrackingConfig, folder: pathlib.Path) -> Config:
    frame().write_csv(folder / "data.csv")
    data = dataclasses.replace(config.data, path=str(folder / "data.csv"))
    return dataclasses.replace(config, data=data, tracking=tracking)


def test_what_a_training_registers_is_tried(
    tracking: TrackingConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trained(configure(BESIDE, {}, max_epochs=2), tracking, tmp_path)
    log_bundle, client = registry.log_bundle, registry.connect(tracking)
    with monkeypatch.context() as patch:
        patch.setattr(
            registry, "log_bundle", lambda c, t, r, bundle, example: log_bundle(c, t, r, overflowing(bundle), example)
        )
        broken = train(config, stream=io.StringIO())
    assert not broken.is_champion
    assert broken.refusal == "cannot be served: the model's forecast of a sine is not all finite numbers"
    assert broken.refusal in broken.line()
    assert broken.model.tags["trial"] == broken.refusal == client.get_run(broken.run_id).data.tags["trial"]
    assert broken.model.tags["validation_status"] == "failed"
    assert registry.find(client, tracking, registry.CHAMPION) is None

    result = train(config, stream=io.StringIO())
    assert result.is_champion, result.line()
    assert result.model.tags["trial"] == "passed"
    assert registry.resolve(tracking).version == result.model.version


def test_what_a_backtest_would_promote_is_tried(empty_store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    config = promoting.make_store(tmp_path)
    client, context = registry.connect(config.tracking), Context(trigger="test", stream=io.StringIO())
    registry.set_alias(client, config.tracking, registry.CHALLENGER, promoting.GOOD)
    backtest(config, context)
    (folder,) = tmp_path.glob(f"mlartifacts/**/{_model_id(config, promoting.GOOD)}/**/artifacts/bundle")
    overflowing(Bundle.load(folder)).save(folder)  # behind the backtest
    decision = promote(config, context)
    assert not decision.promoted
    assert "forecast of a sine is not all finite" in decision.line()
    assert decision.clauses[-1].line().startswith("FAIL  can be used by a process of its own")
    assert registry.resolve(config.tracking).version == promoting.WEAK
    version = registry.resolve(config.tracking, promoting.GOOD)
    assert version.tags["promotion_reason"] == decision.reason


def _model_id(config: Config, version: str) -> str:
    return registry.resolve(config.tracking, version).model_id


def test_how_a_trial_can_end(tracking: TrackingConfig) -> None:
    data = dataclasses.replace(BESIDE, frequency="1h")
    rows = canonical_frame(frame(), data)
    config = dataclasses.replace(configure(data, {}), tracking=tracking)
    series = to_segments(rows, data.step_us, data.max_gap_steps, data)
    bundle = fit(series, config).bundle
    version = promoting.add_version(config, bundle, series)
    passed = try_version(tracking, version, rows)
    assert (passed.failure, passed.series) == ("", 5)  # and a made-up one
    assert try_here(tracking, version, rows.drop("x", "region")) == 5  # what is absent is missing
    assert try_here(tracking, version, None) == 1
    late = try_version(tracking, version, seconds=0.01)
    assert late.failure == "did not load, observe and forecast within 0.01 s"
    away = dataclasses.replace(tracking, uri="http://127.0.0.1:1")
    with pytest.raises(UnavailableError):
        try_version(away, version)
