"""`make bench-accuracy`: our model and others', trained for the same time on the same core, scored by the same code.

One after the other: ours in this process, the others by `peers` in the environment of `peers.txt`, each with one torch
thread. All see the series alone, without covariates, forecast from the same origins, those that a whole horizon
follows, fitted once before the first of them, and are scored on the same values
(`forecaster.evaluation.baseline_scores`) beside the naive forecasts. Nothing is asserted.

Not the same for all: ours has the ready configuration of each data set (`forecaster/configs`), chosen on the tail of
what may be learnt from; nothing was searched for the others, which have their defaults but for what `peers` names.

The limit is on the updates of the weights. The seconds in the table are the whole fit's: ours holds a validation beyond
the limit, and chooses its epoch by it on the weather; an update that is under way at the limit is done.

Shapes: K origins, D horizon steps, Q quantiles.
"""

import argparse
import dataclasses
import datetime as dt
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl
import torch

from forecaster.benchmarks import m4_hourly, weather
from forecaster.benchmarks.job import read_benchmark_config
from forecaster.benchmarks.problem import before
from forecaster.config import DataConfig
from forecaster.data.windows import Series
from forecaster.evaluation.baseline_scores import Forecasts, score, score_baselines
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import mase_units
from forecaster.evaluation.scores import Backtest, owa
from forecaster.model.inputs.observations import Observations
from forecaster.training.members import fit_members

LEVELS = (0.025, 0.5, 0.975)
PEERS = ("neuralforecast-GRU", "neuralforecast-LSTM", "neuralforecast-DeepAR", "neuralforecast-NHITS", "gluonts-DeepAR")
OURS = {"forecaster-GRU": "gru", "forecaster-LSTM": "lstm"}
HOUR_US = 3_600_000_000
_PEERS_PYTHON = "build/peers-venv/bin/python"


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One data set: what may be learnt from and which forecasts are scored."""

    name: str
    series: tuple[Series, ...]
    origins: Origins

    @property
    def history(self) -> list[Series]:
        """What may be learnt from."""
        return before(self.series, self.origins.first_time_us)

    def frame(self) -> pl.DataFrame:
        """Return the series as rows on the whole grid, missing values null."""
        parts = [pl.DataFrame({"unique_id": one.unique_id, "us": one.time_us, "y": one.values}) for one in self.series]
        return pl.concat(parts).select("unique_id", pl.from_epoch("us", "us").alias("ds"), pl.col("y").fill_nan(None))


def make_task(name: str, path: pathlib.Path, stride: int) -> Task:
    """Read a data set; the last origin is the last that a whole horizon follows."""
    module = {"m4-hourly": m4_hourly, "weather": weather}[name]
    problem = module.load(path)
    end_us = max(int(one.time_us[-1]) for one in problem.series)
    origins = Origins(
        first_time_us=problem.first_time_us,
        last_time_us=min(problem.last_time_us, end_us - (module.HORIZON - 1) * HOUR_US),
        horizon=module.HORIZON,
        season=module.SEASON,
        stride=stride,
    )
    return Task(name, tuple(_to_end(one, end_us) for one in problem.series), origins)


def _to_end(one: Series, end_us: int) -> Series:
    """Return the series alone, with missing values up to a common end, from which NeuralForecast counts its windows."""
    missing = (end_us - int(one.time_us[-1])) // HOUR_US
    return Series(one.unique_id, one.start_us, one.step_us, np.concatenate([one.values, np.full(missing, np.nan)]))


def run_ours(name: str, task: Task, seconds: float, seed: int) -> tuple[Forecasts, float]:
    """Train with the data set's ready configuration; returns what forecasts and the seconds of training."""
    overrides = [f"--training.max_seconds={seconds}", f"--training.seed={seed}", f"--model.cell={OURS[name]}"]
    config = read_benchmark_config(task.name, overrides)
    config = dataclasses.replace(config, data=DataConfig(frequency=config.data.frequency))  # no covariates
    began = time.monotonic()
    model = fit_members(task.history, config, members=1, processes=1).model
    took = time.monotonic() - began
    columns = [model.config.quantile_levels.index(level) for level in LEVELS]

    def forecasts(one: Series, at: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            observations = Observations.of(torch.from_numpy(one.time_us)[None], torch.from_numpy(one.values)[None])
            _, encoded = model.scan(model.initial_state(1), observations)
            quantiles = model.quantiles_after(encoded, torch.from_numpy(at), task.origins.horizon)
        return quantiles[..., columns].numpy()

    return forecasts, took


def run_peer(name: str, task: Task, seconds: float, seed: int, python: str) -> tuple[Forecasts, float]:
    """Run another program's model in its own environment; returns what looks its forecasts up, and the seconds."""
    first = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=task.origins.first_time_us)
    described = {
        "model": name,
        "horizon": task.origins.horizon,
        "stride": task.origins.stride,
        "first": first.isoformat(),
        "seconds": seconds,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as folder_name:
        folder = pathlib.Path(folder_name)
        (folder / "task.json").write_text(json.dumps(described))
        task.frame().write_parquet(folder / "data.parquet")
        script = pathlib.Path(__file__).with_name("peers.py").resolve()
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # Without our path: the script's folder must not shadow what the other environment has.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | one_thread
        command = [str(pathlib.Path(python).absolute()), str(script), str(folder / "task.json")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name} on {task.name}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        found = pl.read_parquet(folder / "forecasts.parquet").sort("unique_id", "cutoff", "ds")
        took = float(json.loads((folder / "seconds.json").read_text()))
    return looked_up(found, task.origins.horizon), took


def looked_up(found: pl.DataFrame, horizon: int) -> Forecasts:
    """Return what forecasts by looking up rows of unique_id, cutoff (the last known time), ds and the quantiles."""
    names = [f"q{level}" for level in LEVELS]
    rows = {key[0]: part for key, part in found.group_by("unique_id")}

    def forecasts(one: Series, at: np.ndarray) -> np.ndarray:
        part = rows[one.unique_id].sort("cutoff", "ds")
        cutoffs = part["cutoff"].dt.epoch("us").to_numpy().reshape(-1, horizon)
        ahead = part["ds"].dt.epoch("us").to_numpy().reshape(-1, horizon) - cutoffs
        assert (ahead == HOUR_US * np.arange(1, horizon + 1)).all(), "every origin has a whole horizon"
        index = np.searchsorted(cutoffs[:, 0], one.time_us[at])
        assert (cutoffs[index, 0] == one.time_us[at]).all(), "every scored origin is there"
        quantiles = part.select(names).to_numpy().astype(np.float64).reshape(-1, horizon, len(LEVELS))[index]
        return np.sort(quantiles, axis=-1)  # those of NeuralForecast's quantile loss may cross

    return forecasts


def row(task: Task, name: str, scored: Backtest, naive2: Backtest, seconds: float | None) -> dict[str, object]:
    """Return a line of the table; intervals only where there are any."""
    return {
        "data": task.name,
        "model": name,
        "smape": scored.smape,
        "mase": scored.mase,
        "owa": owa(scored, naive2),
        "msis": scored.msis if np.isfinite(scored.msis) else None,
        "coverage_95": scored.coverage[0.95] if np.isfinite(scored.msis) else None,
        "train_seconds": seconds,
        "origins": scored.origins,
    }


def run(task: Task, models: list[str], arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Train and score every model on a data set; a line is printed as soon as it is known."""
    units = mase_units(task.history, task.origins.season)
    baselines = score_baselines(task.series, task.origins, units)
    rows = [row(task, name, scored, baselines["naive2"], None) for name, scored in baselines.items()]
    for line in rows:
        print(text(line), flush=True)
    for name in models:
        try:
            if name in OURS:
                forecasts, seconds = run_ours(name, task, arguments.seconds, arguments.seed)
            else:
                forecasts, seconds = run_peer(name, task, arguments.seconds, arguments.seed, arguments.peers)
        except RuntimeError as error:
            print(f"{task.name:<10} {name:<22} failed: {error}", flush=True)
            rows.append({"data": task.name, "model": name, "failed": str(error)})
            continue
        scored = score(task.series, forecasts, task.origins, units, levels=LEVELS)
        rows.append(row(task, name, scored, baselines["naive2"], seconds))
        print(text(rows[-1]), flush=True)
    return rows


def text(line: dict[str, object]) -> str:
    """Return a row of the table as text."""
    figures = [("smape", 8, 3), ("mase", 8, 3), ("owa", 8, 3), ("msis", 8, 2), ("coverage_95", 9, 3)]
    cells = "".join(f"{'-' if line[key] is None else f'{line[key]:.{digits}f}':>{w}}" for key, w, digits in figures)
    seconds = "-" if line["train_seconds"] is None else f"{line['train_seconds']:.0f}"
    return f"{line['data']:<10} {line['model']:<22}{cells}{seconds:>9}{line['origins']:>9}"


def main() -> int:
    """Run the data sets one after the other; exit code 1 if a model failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--m4", type=pathlib.Path, help="the folder of Hourly-train.csv and Hourly-test.csv")
    parser.add_argument("--seconds", type=float, default=300.0, help="of training for each model")
    parser.add_argument("--stride", type=int, default=1, help="on the weather, forecast at every so many hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", nargs="+", choices=("m4-hourly", "weather"), default=["m4-hourly", "weather"])
    parser.add_argument("--models", nargs="+", choices=(*OURS, *PEERS), default=["forecaster-GRU", *PEERS])
    parser.add_argument("--peers", default=_PEERS_PYTHON, help="the Python of the others' environment")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/bench-accuracy.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in arguments.data if name != "m4-hourly" or arguments.m4 is not None]
    if len(names) < len(arguments.data):
        print("without M4 Hourly: give its folder, M4=… or --m4")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one thread, {arguments.seconds:.0f} s of training each"
    )
    header = f"{'data':<10} {'model':<22}{'sMAPE':>8}{'MASE':>8}{'OWA':>8}{'MSIS':>8}{'in 95 %':>9}{'train s':>9}"
    print(f"{header}{'origins':>9}", flush=True)
    rows: list[dict[str, object]] = []
    for name in names:
        task = make_task(name, arguments.m4 or pathlib.Path(), arguments.stride if name == "weather" else 1)
        rows += run(task, arguments.models, arguments)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        described = {"seconds": arguments.seconds, "seed": arguments.seed, "cores": os.cpu_count(), "rows": rows}
        arguments.output.write_text(json.dumps(described, indent=2) + "\n")
    print(f"written to {arguments.output}; load at the end {os.getloadavg()[0]:.1f}")
    return int(any("failed" in line for line in rows))


if __name__ == "__main__":
    sys.exit(main())
