"""Backtests on MLflow's dashboard: written whole, found again, read back.

Knows MLflow's runs; knows nothing of how anything is scored.
"""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from forecaster.config import TrackingConfig
from forecaster.registry.registry import RegisteredModel, store_errors
from pipelines.backtest.result import BacktestResult, Fold, utc_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset
    from mlflow.entities import Run as MlflowRun

    from forecaster.training.run.run import Run

STEP = "backtest"
_RESULT = "backtest.json"
_FIGURES = {"by_horizon": "Error by horizon", "by_fold": "Error by fold", "by_series": "Series by series"}
_SERIES_SHOWN = 200  # in the table on the dashboard; the Parquet file has all


def finished_backtest(client: "MlflowClient", config: TrackingConfig, tags: Mapping[str, str]) -> "MlflowRun | None":
    """Return the newest finished backtest of the configured model that has these tags."""
    wanted = {"step": STEP, **tags}
    with store_errors(config):
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            return None
        which = " and ".join(f"tags.{name} = '{value}'" for name, value in wanted.items())
        found = client.search_runs(
            [experiment.experiment_id],
            f"{which} and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
        )
    # The model's name may hold quotes, which MLflow's filters cannot.
    return next((run for run in found if run.data.tags.get("registered_model") == config.model), None)


def read_text(client: "MlflowClient", config: TrackingConfig, run_id: str, name: str) -> str:
    """Return a file of a run."""
    return read_bytes(client, config, run_id, name).decode()


def read_bytes(client: "MlflowClient", config: TrackingConfig, run_id: str, name: str) -> bytes:
    """Return a file of a run."""
    with store_errors(config), tempfile.TemporaryDirectory(prefix="forecaster-") as folder:
        return pathlib.Path(client.download_artifacts(run_id, name, folder)).read_bytes()


def read_result(client: "MlflowClient", config: TrackingConfig, run_id: str) -> BacktestResult:
    """Return what a finished backtest found."""
    return BacktestResult.from_json(read_text(client, config, run_id, _RESULT))


def read_figures(client: "MlflowClient", config: TrackingConfig, run_id: str) -> dict[str, bytes]:
    """Return the pictures of a finished backtest as PNG files, by title."""
    return {title: read_bytes(client, config, run_id, _figure(name)) for name, title in _FIGURES.items()}


def log_result(
    run: "Run",
    result: BacktestResult,
    series: pl.DataFrame,
    models: Mapping[str, RegisteredModel],
    data: "Dataset",
) -> None:
    """Log what a backtest found: figures linked to the models and the data, tables, pictures; the result last.

    Args:
        run: the backtest's.
        result: what it found.
        series: a row for each, the worst first.
        models: the versions, by candidate.
        data: as logged with the run.
    """
    from pipelines.backtest.figures import by_fold, by_horizon, by_series

    for name, figures in result.whole.figures.items():
        model_id = models[name].model_id if name in models else ""
        linked = (model_id, data) if model_id else ()
        run.log_metrics({f"{name}_{figure}": value for figure, value in figures.items()}, *linked)
        run.log_curve(f"{name}_mase_by_horizon", result.by_horizon[name])
    run.log_metrics({"origins": result.whole.origins, "series": result.series})
    steps = {f"{name}_mase": list(values) for name, values in result.by_horizon.items()}
    horizons = pl.DataFrame({"step": range(1, result.horizon + 1)} | steps)
    run.log_table(horizons.to_dict(as_series=False), "tables/by_horizon.json")
    run.log_table(series.head(_SERIES_SHOWN).to_dict(as_series=False), "tables/by_series.json")
    with tempfile.TemporaryDirectory(prefix="forecaster-") as folder:
        horizons.write_parquet(pathlib.Path(folder) / "by_horizon.parquet")
        series.write_parquet(pathlib.Path(folder) / "by_series.parquet")
        run.log_folder(pathlib.Path(folder), "tables")
    for name, picture in zip(_FIGURES, (by_horizon(result), by_fold(result), by_series(result, series)), strict=True):
        run.log_figure(picture, _figure(name))
    run.log_text(result.to_json(), _RESULT)


def log_fold(run: "Run", fold: Fold) -> None:
    """Log one stretch of the window in a run of its own."""
    run.log_params({"first_time": utc_text(fold.first_time), "last_time": utc_text(fold.last_time)})
    for name, figures in fold.figures.items():
        run.log_metrics({f"{name}_{figure}": value for figure, value in figures.items()})
    run.log_metrics({"origins": fold.origins})


def _figure(name: str) -> str:
    return f"figures/{name}.png"
