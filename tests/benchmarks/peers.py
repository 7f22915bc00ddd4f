"""One other program's model: fit within a time, forecast from every origin, write the forecasts.

Runs by itself in the environment of `peers.txt` and imports nothing of the project: data come in and forecasts go out
as Parquet, and the scoring is `accuracy`'s. The settings are each program's defaults but for what is named here:

- 168 steps of context, a week of hours, for all (the defaults are one to three horizons, which hold less);
- NeuralForecast: quantile losses or a Student-t with a 95 % interval, so that there is one to score; the `robust`
  scaler for NHITS and `standard` for DeepAR, since the default, none, is for series of one scale; for DeepAR the
  batches of 128 windows that GRU and LSTM have, since its 1,024 leave a core time for a handful of updates. It wants no
  missing values: the last value before is filled in and marked unavailable, which its losses and scalers leave out. Its
  learning rate decays with the share of `max_steps` done, of which a limit in seconds sees none.
- GluonTS: missing values as they are. It keeps the weights of its best epoch of 50 batches.
"""

import argparse
import json
import pathlib
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
import torch

CONTEXT = 168
MANY = 10**6
LEVEL = 95
COLUMNS = {"lo-95": "q0.025", "median": "q0.5", "hi-95": "q0.975"}
NEURALFORECAST = ("GRU", "LSTM", "DeepAR", "NHITS")


def neuralforecast_model(name: str, horizon: int, seconds: float, seed: int) -> object:
    """Return an unfitted model of NeuralForecast."""
    from neuralforecast import models
    from neuralforecast.losses.pytorch import DistributionLoss, MQLoss

    own: dict[str, object] = {"loss": MQLoss(level=[LEVEL])}
    if name == "DeepAR":
        loss = DistributionLoss(distribution="StudentT", level=[LEVEL], return_params=False)
        own = {"loss": loss, "valid_loss": MQLoss(level=[LEVEL]), "scaler_type": "standard", "windows_batch_size": 128}
    elif name == "NHITS":
        own["scaler_type"] = "robust"
    return getattr(models, name)(
        h=horizon,
        input_size=CONTEXT,
        max_steps=MANY,
        random_seed=seed,
        max_time={"seconds": seconds},
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **own,
    )


def run_neuralforecast(name: str, frame: pd.DataFrame, task: dict) -> tuple[pd.DataFrame, float]:
    """Return the forecasts and the seconds of fitting; the origins end where the last whole horizon begins."""
    from neuralforecast import NeuralForecast

    horizon, stride = task["horizon"], task["stride"]
    frame = frame.assign(available_mask=frame["y"].notna().astype(float))
    frame["y"] = frame.groupby("unique_id")["y"].ffill().fillna(0.0)  # 0: only before the first value of a series
    first = pd.Timestamp(task["first"])
    model = neuralforecast_model(name, horizon, task["seconds"], task["seed"])
    forecast = NeuralForecast(models=[model], freq="h")
    began = time.monotonic()
    forecast.fit(frame[frame["ds"] < first])
    seconds = time.monotonic() - began
    steps = frame.loc[frame["ds"] >= first, "ds"].nunique()
    windows = (steps - horizon) // stride + 1
    assert (steps - horizon) % stride == 0, "the stride does not end with the data"
    found = forecast.cross_validation(frame, n_windows=windows, step_size=stride, use_fitted=True)
    columns = {f"{name}-{theirs}": ours for theirs, ours in COLUMNS.items()}
    return found.rename(columns=columns)[["unique_id", "cutoff", "ds", *COLUMNS.values()]], seconds


def run_gluonts(frame: pd.DataFrame, task: dict) -> tuple[pd.DataFrame, float]:
    """Return the forecasts and the seconds of fitting."""
    from gluonts.dataset.common import ListDataset
    from gluonts.torch.model.deepar import DeepAREstimator

    first, horizon = pd.Timestamp(task["first"]), task["horizon"]
    cutoffs = [first - pd.Timedelta(hours=1)]
    while cutoffs[-1] + pd.Timedelta(hours=task["stride"] + horizon) <= frame["ds"].max():
        cutoffs.append(cutoffs[-1] + pd.Timedelta(hours=task["stride"]))
    series = dict(list(frame.groupby("unique_id")))

    def entries(ends: list[pd.Timestamp]) -> ListDataset:
        found = []
        for name, rows in series.items():
            values, start = rows["y"].to_numpy(np.float32), rows["ds"].iloc[0]
            for end in ends:
                known = int((end - start) / pd.Timedelta(hours=1)) + 1
                found.append({"start": pd.Period(start, "h"), "target": values[:known], "item_id": name})
        return ListDataset(found, freq="h")

    with tempfile.TemporaryDirectory(prefix="gluonts-") as folder:
        trainer = {
            "max_epochs": MANY,
            "max_time": {"seconds": task["seconds"]},
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "default_root_dir": folder,
        }
        estimator = DeepAREstimator("h", horizon, context_length=CONTEXT, trainer_kwargs=trainer)
        began = time.monotonic()
        predictor = estimator.train(entries([cutoffs[0]]))
        seconds = time.monotonic() - began
    parts = []
    for cutoff in cutoffs:
        ds = pd.date_range(cutoff + pd.Timedelta(hours=1), periods=horizon, freq="h")
        for made in predictor.predict(entries([cutoff])):
            quantiles = {name: made.quantile(float(name[1:])) for name in COLUMNS.values()}
            parts.append(pd.DataFrame({"unique_id": made.item_id, "cutoff": cutoff, "ds": ds, **quantiles}))
    return pd.concat(parts), seconds


def main() -> None:
    """Read a task, run it, write `forecasts.parquet` and `seconds.json` beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=pathlib.Path, help="a JSON file, data.parquet is beside it")
    path = parser.parse_args().task
    task = json.loads(path.read_text())
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(task["seed"])
    np.random.seed(task["seed"])  # GluonTS samples its windows with it
    frame = pd.read_parquet(path.parent / "data.parquet")
    library, name = task["model"].split("-", 1)
    found, seconds = run_gluonts(frame, task) if library == "gluonts" else run_neuralforecast(name, frame, task)
    found.to_parquet(path.parent / "forecasts.parquet", index=False)
    (path.parent / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
