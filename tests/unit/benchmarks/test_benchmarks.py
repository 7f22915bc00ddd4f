"""Benchmarks on small files in the public layouts: what is learnt from, what is scored, and a whole run."""

import csv
import gzip
import json
import math
import pathlib

import numpy as np
import pytest

from forecaster.benchmarks import NAMES, etth1, exchange_rate, m4_hourly, validation, weather
from forecaster.benchmarks.job import BENCHMARKS, read_benchmark_config, run
from forecaster.benchmarks.problem import Problem, before, origins_of
from forecaster.data.windows import Series
from forecaster.errors import DataError
from forecaster.evaluation.baselines import naive2
from forecaster.model.bundle import Bundle
from forecaster.model.ensemble import Ensemble


@pytest.fixture
def m4(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a folder with six series of unequal length in M4's layout."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[list[str]]] = {"train": [], "test": []}
    for k in range(6):
        steps = 300 + 40 * (k % 3)
        values = 50 + 10 * np.sin(2 * np.pi * np.arange(steps + 48) / 24 + k) + rng.standard_normal(steps + 48)
        cells = [f"{value:.6f}" for value in values]
        rows["train"].append([f"H{k}", *cells[:steps], *[""] * (380 - steps)])
        rows["test"].append([f"H{k}", *cells[steps:]])
    for part, lines in rows.items():
        with (tmp_path / f"Hourly-{part}.csv").open("w", newline="") as stream:
            csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([[f"V{i}" for i in range(len(lines[0]))], *lines])
    return tmp_path


def test_m4s_series_end_together_and_one_origin_is_scored(m4: pathlib.Path) -> None:
    problem = m4_hourly.load(m4)
    assert {len(one) for one in problem.series} == {348, 388, 428}
    for whole, known in zip(problem.series, before(problem.series, problem.first_time_us), strict=True):
        assert len(whole) - len(known) == 48
        assert origins_of(problem, whole).tolist() == [len(known) - 1]


def test_a_whole_run_writes_its_figures_and_an_ensemble(m4: pathlib.Path, tmp_path: pathlib.Path) -> None:
    small = ["model.hidden_size=8", "model.decoder_size=8", "training.max_seconds=null", "training.max_epochs=1"]
    overrides = [f"--{item}" for item in (*small, "training.min_updates=60")]
    result = run("m4-hourly", m4, tmp_path / "out", overrides=overrides, members=2, processes=2)
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert written["metrics"] == pytest.approx(result.metrics)
    assert written["configuration"]["model"]["hidden_size"] == 8
    assert written["seed"] == 1
    assert list(written["members"]) == ["1", "2"]  # the seeds
    alone = [metrics["mase"] for metrics in result.members.values()]
    assert len({*alone, result.metrics["mase"]}) == 3
    assert f"members {min(alone):.4f} to {max(alone):.4f}" in result.table()
    assert isinstance(Bundle.load(tmp_path / "out" / "bundle").model, Ensemble)
    rows = {
        part: list(csv.reader((m4 / f"Hourly-{part}.csv").read_text().splitlines()))[1:] for part in ("train", "test")
    }
    history, actual = (
        {name: np.array([float(cell) for cell in cells if cell]) for name, *cells in rows[part]}
        for part in ("train", "test")
    )
    forecasts = {name: naive2(values, 48, 24) for name, values in history.items()}
    smape = np.mean(
        [200 * np.mean(np.abs(actual[n] - f) / (np.abs(actual[n]) + np.abs(f))) for n, f in forecasts.items()]
    )
    assert result.metrics["naive2_smape"] == pytest.approx(smape)
    owa = (result.metrics["smape"] / smape + result.metrics["mase"] / result.metrics["naive2_mase"]) / 2
    assert result.metrics["owa"] == pytest.approx(owa)
    assert result.metrics["mase"] < 1.5
    assert {"msis", "coverage_95", "pinball"} <= result.metrics.keys()


def test_etth1_is_cut_in_twelve_four_and_four_months(tmp_path: pathlib.Path) -> None:
    hours = 20 * 720 + 5
    with (tmp_path / "ETTh1.csv").open("w") as stream:
        stream.write("date,HUFL,OT\n")
        for t in range(hours):
            stream.write(
                f"{np.datetime64('2016-07-01T00:00:00') + np.timedelta64(t, 'h')},{t % 24},{t % 7}\n".replace(
                    "T", " ", 1
                )
            )
    problem = etth1.load(tmp_path)
    one = problem.series[0]
    assert (len(one), one.unique_id) == (14_400, "HUFL")
    at = origins_of(problem, one)
    assert (at[0], at[-1], len(at)) == (11_519, 14_400 - 97, 2785)


def test_exchange_rates_have_a_naive_forecast_on_every_scored_origin(tmp_path: pathlib.Path) -> None:
    values = np.random.default_rng(0).standard_normal((500, 2)).cumsum(0) + 50
    text = "\n".join(",".join(f"{x:.6f}" for x in row) for row in values)
    path = tmp_path / "exchange_rate.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    problem = exchange_rate.load(tmp_path)
    at = origins_of(problem, problem.series[0])
    assert (at[0], at[-1]) == (399, 500 - 31)
    plain = []
    for one in problem.series:
        errors = [abs(one.values[t + d] - one.values[t]) for t in at for d in range(1, 31)]
        plain.append(np.mean(errors) / np.abs(one.values[5:400] - one.values[:395]).mean())
    assert exchange_rate._naive_mase(problem) == pytest.approx(np.mean(plain))


def test_the_weather_is_the_bundled_one() -> None:
    problem = weather.load(pathlib.Path("nowhere"))
    assert len(problem.series) == 18
    assert len(origins_of(problem, problem.series[0])) == 336


def test_windows_are_scored_before_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 days an hourly series is 100 · day: a window's forecasts are of its own days, never of later ones."""
    values = 100.0 * (np.arange(480) // 24) + np.arange(480) % 24
    one = Series("a", 0, 3_600_000_000, values)
    end_us = 400 * one.step_us
    problem = Problem(series=(one,), first_time_us=end_us, last_time_us=end_us, season=24, extra=lambda _: {})
    monkeypatch.setitem(BENCHMARKS, "weather", lambda path: problem)
    seen: list[int] = []

    def fit(series: list[Series], config: object, **_: object) -> object:
        seen.append(len(series[0]))
        return real(series, config)  # type: ignore[arg-type]

    real = validation.fit
    monkeypatch.setattr(validation, "fit", fit)
    small = ["data.past_covariates=[]", "data.static_categories=[]", "model.hidden_size=4", "model.decoder_size=4"]
    small += ["training.validation_steps=48", "training.max_epochs=1", "training.min_updates=2"]
    windows = validation.validate("weather", pathlib.Path(), overrides=[f"--{item}" for item in small], windows=2)
    assert seen == [400, 400 - 96]
    assert len(windows) == 2
    assert all(math.isfinite(window["mase"]) for window in windows)
    mean = (windows[0]["mase"] + windows[1]["mase"]) / 2
    assert f"{windows[1]['mase']:10.4f}   mean {mean:10.4f}" in validation.table(windows)


def test_the_names_that_the_command_offers_are_those_that_run() -> None:
    assert tuple(BENCHMARKS) == NAMES


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_ready_configuration(name: str) -> None:
    config = read_benchmark_config(name, ["--model.hidden_size=7"])
    assert config.model.hidden_size == 7
    module = {"m4-hourly": m4_hourly, "etth1": etth1, "exchange-rate": exchange_rate, "weather": weather}[name]
    assert config.model.horizon == module.HORIZON  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["m4-hourly", "etth1", "exchange-rate"])
def test_missing_files_are_said_in_one_line(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"no such file|is not"):
        BENCHMARKS[name](tmp_path)
