"""Rolling-origin evaluation against a reference of plain loops over series, origins and steps."""

import math

import numpy as np
import pytest
import torch

from forecaster.config import ModelConfig
from forecaster.data.windows import Series
from forecaster.evaluation.rolling import (
    COVERAGES,
    Backtest,
    fill_by_season,
    forecast,
    mase_unit,
    mase_units,
    rolling_origin,
)
from forecaster.model.inputs.observations import Observations
from forecaster.model.seq2seq import Seq2Seq

HOUR = 3_600_000_000
SEASON, HORIZON = 4, 3
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def make_model(levels: tuple[float, ...] = LEVELS, seasons: tuple[int, ...] = (SEASON, 6)) -> Seq2Seq:
    torch.manual_seed(3)
    config = ModelConfig(
        hidden_size=5,
        num_layers=1,
        decoder_size=6,
        horizon=HORIZON,
        season_lengths=seasons,
        min_history=5,
        quantile_levels=levels,
    )
    model = Seq2Seq(config.resolve(HOUR), HOUR)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def make_series(seed: int = 0) -> list[Series]:
    """Ragged series with gaps; `b` in two segments, `old` over before the tail, `flat` constant."""
    rng = np.random.default_rng(seed)

    def values(n: int) -> np.ndarray:
        x = 10 + 3 * np.sin(np.arange(n) * math.tau / SEASON) + rng.normal(size=n).cumsum()
        x[rng.random(n) < 0.15] = np.nan
        return x

    return [
        Series("a", 0, HOUR, values(40)),
        Series("b", 3 * HOUR, HOUR, values(14)),
        Series("b", 30 * HOUR, HOUR, values(17)),
        Series("old", 0, HOUR, values(12)),
        Series("flat", 10 * HOUR, HOUR, np.full(30, 7.0)),
        Series("c", 12 * HOUR, HOUR, values(31)),
    ]


def reference(model: Seq2Seq, series: list[Series], first_us: int, units: dict[str, float]) -> dict[str, dict]:
    """Return for each series id the list of scored pairs, found by one fresh scan for every origin."""
    pairs: dict[str, list[dict]] = {one.unique_id: [] for one in series}
    season = model.config.season_lengths[0] if model.config.season_lengths else 1
    for one in series:
        for last in range(len(one)):
            history = one.values[: last + 1]
            if one.start_us + (last + 1) * HOUR < first_us or np.isfinite(history).sum() < model.config.min_history:
                continue
            seen = torch.from_numpy(np.isfinite(history))[None]
            times = torch.from_numpy(one.time_us[: last + 1])[None]
            observations = Observations(times, torch.from_numpy(np.nan_to_num(history))[None], seen)
            with torch.inference_mode():
                state, _ = model.scan(model.initial_state(1), observations)
                quantiles = model.decode(state, HORIZON)[0].numpy()
            for ahead in range(1, HORIZON + 1):
                if last + ahead >= len(one) or math.isnan(one.values[last + ahead]):
                    continue
                naive = math.nan
                for back in range(season - 1 - (ahead - 1) % season, last + 1, season):
                    if math.isfinite(history[last - back]):
                        naive = history[last - back]
                        break
                if math.isnan(naive):
                    continue
                pairs[one.unique_id].append(
                    {
                        "y": one.values[last + ahead],
                        "q": quantiles[ahead - 1],
                        "naive": naive,
                        "h": ahead,
                        "o": (one.start_us, last),
                    }
                )
    return pairs


def pinball(pair: dict) -> float:
    losses = [max(p * (pair["y"] - q), (p - 1) * (pair["y"] - q)) for p, q in zip(LEVELS, pair["q"], strict=True)]
    return sum(losses) / len(losses)


def mean(pair: dict) -> float:
    """Return the mean of the quantiles, linear between the levels and flat beyond them."""
    return float(np.trapezoid([pair["q"][0], *pair["q"], pair["q"][-1]], [0.0, *LEVELS, 1.0]))


def inside(pair: dict, coverage: float) -> bool:
    low, high = (float(np.interp(side, LEVELS, pair["q"])) for side in ((1 - coverage) / 2, (1 + coverage) / 2))
    return low <= pair["y"] <= high


@pytest.fixture(scope="module")
def scored() -> tuple[Backtest, dict[str, list[dict]], dict[str, float]]:
    model, series = make_model(), make_series()
    first_us = 25 * HOUR
    units = {"a": 2.0, "b": 0.5, "old": 1.0, "flat": math.nan, "c": 3.0}
    return (
        rolling_origin(model, series, first_time_us=first_us, units=units),
        reference(model, series, first_us, units),
        units,
    )


def test_series_scores_equal_plain_loops(scored) -> None:
    backtest, pairs, units = scored
    assert [one.unique_id for one in backtest.series] == ["a", "b", "old", "flat", "c"]
    for score in backtest.series:
        found, unit = pairs[score.unique_id], units[score.unique_id]
        assert score.pairs == len(found)
        if not found:
            assert math.isnan(score.mase)
            assert math.isnan(score.mae)
            continue
        errors = np.array([pair["q"][LEVELS.index(0.5)] - pair["y"] for pair in found])
        y = np.array([pair["y"] for pair in found])
        smape = 200 * np.abs(errors) / (np.abs(y) + np.abs(y + errors))
        expected = {
            "mase": np.abs(errors).mean() / unit,
            "seasonal_naive_mase": np.mean([abs(pair["naive"] - pair["y"]) for pair in found]) / unit,
            "smape": smape.mean(),
            "mae": np.abs(errors).mean(),
            "rmse": math.sqrt(np.mean([(mean(pair) - pair["y"]) ** 2 for pair in found])),
            "pinball": np.mean([pinball(pair) for pair in found]) / unit,
            "bias": errors.mean() / unit,
        }
        for name, value in expected.items():
            assert getattr(score, name) == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), (
                score.unique_id,
                name,
            )
        for coverage in (0.5, 0.8, 0.9):
            assert score.coverage[coverage] == pytest.approx(np.mean([inside(pair, coverage) for pair in found]))


def test_summary_is_the_mean_over_series(scored) -> None:
    backtest, pairs, units = scored
    varying = [name for name in pairs if pairs[name] and not math.isnan(units[name])]
    assert varying == ["a", "b", "c"]
    by_id = {one.unique_id: one for one in backtest.series}
    for name in ("mase", "seasonal_naive_mase", "pinball"):
        assert getattr(backtest, name) == pytest.approx(np.mean([getattr(by_id[i], name) for i in varying]))
    assert backtest.smape == pytest.approx(np.mean([by_id[i].smape for i in (*varying, "flat")]))
    assert backtest.skill == pytest.approx(1 - backtest.mase / backtest.seasonal_naive_mase)
    assert backtest.origins == sum(len({pair["o"] for pair in found}) for found in pairs.values())
    everything = [pair for found in pairs.values() for pair in found]
    for index, level in enumerate(LEVELS):
        share = np.mean([pair["y"] <= pair["q"][index] for pair in everything])
        assert backtest.calibration[level] == pytest.approx(share)


def test_errors_by_horizon_are_means_over_series(scored) -> None:
    backtest, pairs, units = scored
    for ahead in range(1, HORIZON + 1):
        model, naive = [], []
        for name in ("a", "b", "c"):
            found = [pair for pair in pairs[name] if pair["h"] == ahead]
            model.append(np.mean([abs(pair["q"][3] - pair["y"]) for pair in found]) / units[name])
            naive.append(np.mean([abs(pair["naive"] - pair["y"]) for pair in found]) / units[name])
        assert backtest.mase_by_horizon[ahead - 1] == pytest.approx(np.mean(model), rel=1e-5)
        assert backtest.seasonal_naive_mase_by_horizon[ahead - 1] == pytest.approx(np.mean(naive))


def test_a_last_time_ends_the_origins(scored) -> None:
    """`last_time_us=first_time_us` is one origin: every series' forecast from the step before it, and no other."""
    model, series, first_us = make_model(), make_series(), 33 * HOUR
    one_origin = rolling_origin(model, series, first_time_us=first_us, last_time_us=first_us, units=scored[2])
    pairs = reference(model, series, first_us, scored[2])
    for score in one_origin.series:
        found = [p for p in pairs[score.unique_id] if p["o"][0] + (p["o"][1] + 1) * HOUR == first_us]
        assert score.pairs == len(found) <= HORIZON
        if found:
            assert score.mae == pytest.approx(np.mean([abs(p["q"][3] - p["y"]) for p in found]), rel=1e-5)
    assert one_origin.origins == sum(score.pairs > 0 for score in one_origin.series) >= 3


def test_metrics_have_flat_names_and_untrained_coverage_is_not_a_number(scored) -> None:
    metrics = scored[0].metrics()
    assert list(metrics)[:6] == ["mase", "seasonal_naive_mase", "skill", "smape", "msis", "pinball"]
    assert {f"coverage_{round(100 * p)}" for p in COVERAGES} <= set(metrics)
    assert math.isnan(metrics["coverage_95"])  # the levels end at 0.05 and 0.95


def test_chunks_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, series = make_model(), [one for one in make_series() if one.unique_id != "flat"]  # flat: ties
    whole = rolling_origin(model, series, first_time_us=25 * HOUR)
    for name, value in (("_CHUNK_STEPS", 7), ("_SEGMENTS_PER_BATCH", 2), ("_MAX_CELLS", 100)):
        monkeypatch.setattr(f"forecaster.evaluation.rolling.{name}", value)
    pieces = rolling_origin(model, series, first_time_us=25 * HOUR)
    assert pieces.origins == whole.origins
    assert pieces.metrics() == pytest.approx(whole.metrics(), rel=1e-5, nan_ok=True)


def test_units_come_from_before_the_tail() -> None:
    model, series = make_model(), make_series()
    first_us = 25 * HOUR
    before = [Series(s.unique_id, s.start_us, HOUR, s.values[s.time_us < first_us]) for s in series]
    explicit = rolling_origin(model, series, first_time_us=first_us, units=mase_units(before, SEASON))
    assert rolling_origin(model, series, first_time_us=first_us).metrics() == pytest.approx(
        explicit.metrics(), nan_ok=True
    )


def test_a_model_that_is_not_a_number_scores_not_a_number() -> None:
    model = make_model()
    torch.nn.init.constant_(model.decoder.readout.head.linear.bias, math.nan)
    backtest = rolling_origin(model, make_series(), first_time_us=25 * HOUR)
    assert math.isnan(backtest.mase)
    assert math.isnan(backtest.pinball)
    assert math.isfinite(backtest.seasonal_naive_mase)


def test_nothing_to_score() -> None:
    backtest = rolling_origin(make_model(), make_series(), first_time_us=1000 * HOUR)
    assert backtest.origins == 0
    assert math.isnan(backtest.mase)


def test_without_seasons_the_reference_is_the_last_value() -> None:
    model = make_model(seasons=())
    series = [Series("a", 0, HOUR, np.arange(20.0))]
    backtest = rolling_origin(model, series, first_time_us=15 * HOUR)
    assert backtest.seasonal_naive_mase_by_horizon == pytest.approx((1.0, 2.0, 3.0))


def test_forecast_is_what_the_state_at_the_end_decodes_to() -> None:
    model, series = make_model(), [one for one in make_series() if one.unique_id != "old"]
    together = forecast(model, series, 2)
    assert together.shape == (len(series), 2, len(LEVELS))
    for row, one in enumerate(series):
        seen = torch.from_numpy(np.isfinite(one.values))[None]
        values = torch.from_numpy(np.nan_to_num(one.values))[None]
        with torch.inference_mode():
            observations = Observations(torch.from_numpy(one.time_us)[None], values, seen)
            state, _ = model.scan(model.initial_state(1), observations)
            alone = model.decode(state, 2)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


def test_mase_unit_skips_missing_pairs() -> None:
    values = np.array([1.0, 2.0, np.nan, 5.0, 3.0, 4.0])
    assert mase_unit(values, 2) == pytest.approx((3 + 1) / 2)  # 2 → 5 and 5 → 4
    assert math.isnan(mase_unit(np.ones(9), 2))
    assert math.isnan(mase_unit(np.array([1.0]), 2))


def test_mase_units_join_segments_and_fall_back_to_single_steps() -> None:
    series = [
        Series("joined", 0, HOUR, np.array([1.0, 0, 0, 0, 3.0])),
        Series("joined", 99 * HOUR, HOUR, np.array([0, 0, 0, 1.0, 4.0])),
        Series("short", 0, HOUR, np.array([1.0, 4.0, 2.0])),
        Series("seasonal", 0, HOUR, np.tile([1.0, 2.0, 3.0, 2.0], 3)),  # repeats exactly
        Series("flat", 0, HOUR, np.ones(9)),
        Series("empty", 0, HOUR, np.full(9, np.nan)),
    ]
    units = mase_units(series, SEASON)
    assert units["joined"] == pytest.approx((2 + 4) / 2)
    assert units["short"] == pytest.approx((3 + 2) / 2)
    assert units["seasonal"] == pytest.approx(1.0)
    assert math.isnan(units["flat"])
    assert math.isnan(units["empty"])


def test_fill_by_season() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, 6.0, np.nan])
    np.testing.assert_array_equal(fill_by_season(values, 3), [1, np.nan, 3, 1, np.nan, 6, 1])
