"""One training on MLflow's dashboard: what went in, how it went, how good it is, and what became of it.

Knows MLflow's client and what is worth showing; knows nothing of Lightning or of reading data.
"""

import datetime as dt
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from forecaster.config import Config, to_dict
from forecaster.data.datasets import weather_path
from forecaster.data.windows import Series
from forecaster.registry import aliases, registry
from forecaster.registry.registry import RegisteredModel
from forecaster.registry.store_uri import without_passwords
from forecaster.registry.trial import TRIED, try_version
from forecaster.training.callbacks import Epoch
from forecaster.training.fit import FitResult
from forecaster.training.pictures.result_figures import figures_of
from forecaster.training.ranking import worst
from forecaster.training.run.example import example_of
from forecaster.training.run.registration import data_tags
from forecaster.training.split import digest_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Dataset
    from PIL.Image import Image

_INHERITED = ("trigger", "retrain_key", "git_sha")  # tags of the run that its version has too
CONFIG_ARTIFACT = "config.yaml"
_MAKING = ("data.", "model.", "training.")
_METRICS_AT_ONCE = 1000  # MLflow's limit


class Run:
    """A run under way; `tracking.track` makes it and ends it.

    Args:
        client: of the store.
        config: the whole configuration.
        run_id: MLflow's.
        tags: that the run was made with; a version takes what asked for it from them.
    """

    def __init__(self, client: "MlflowClient", config: Config, run_id: str, tags: Mapping[str, str]) -> None:
        self.run_id, self._tags = run_id, tags
        self._client, self._config = client, config
        self._data: Dataset | None = None
        self._reported: set[int] = set()

    def log_config(self, config: Config) -> None:
        """Log the configuration as a file that `--config` reads, and what makes the model of it as parameters.

        MLflow shows all parameters wherever it shows one: those of other sections are logged if they are not as usual.
        """
        plain, usual = without_passwords(to_dict(config)), dict(_flat(to_dict(Config())))
        shown = {name: value for name, value in _flat(plain) if name.startswith(_MAKING) or value != usual.get(name)}
        self.log_params({name: value for name, value in shown.items() if value is not None})
        self.log_text(yaml.safe_dump(plain, sort_keys=False), CONFIG_ARTIFACT)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters by name."""
        from mlflow.entities import Param

        self._client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in values.items()])

    def log_data(self, frame: pl.DataFrame, series: Sequence[Series], use: str = "training") -> "Dataset":
        """Log which data the run reads, and what for: their place, their schema and a digest of their values."""
        from mlflow.data.polars_dataset import from_polars
        from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made on import
        from mlflow.entities import Dataset, DatasetInput, InputTag

        path = str(self._config.data.path or weather_path())
        columns = frame.select("unique_id", "ds", "y", *self._config.data.beside)
        source = LocalArtifactDatasetSource(path)
        data = from_polars(columns, source, targets="y", name=pathlib.Path(path).stem, digest=digest_of(series)[:32])
        entry = data.to_dict()
        logged = Dataset(
            name=entry["name"],
            digest=entry["digest"],
            source_type=entry["source_type"],
            source=entry["source"],
            schema=entry["schema"],
            profile=entry["profile"],
        )
        self._client.log_inputs(self.run_id, [DatasetInput(logged, [InputTag("mlflow.data.context", use)])])
        self._data = logged
        return logged

    def report(self, epoch: Epoch) -> None:
        """Add an epoch to the curves."""
        self._log_metrics([(name, value, epoch.number) for name, value in epoch.figures().items()])
        self._reported.add(epoch.number)

    def report_missing(self, history: Sequence[Epoch]) -> None:
        """Add the epochs of a training that another run began, and this one went on with."""
        for epoch in history:
            if epoch.number not in self._reported:
                self.report(epoch)

    def log_result(self, result: FitResult, series: Sequence[Series]) -> None:
        """Log how good the model is: final figures, error by horizon, pictures, worst series."""
        backtest = result.backtest
        finals = {**backtest.metrics(), "training_seconds": result.seconds, "updates": float(result.updates)}
        self.log_metrics(finals)
        for name in ("mase_by_horizon", "seasonal_naive_mase_by_horizon"):
            self.log_curve(name, getattr(backtest, name))
        lags = enumerate(result.gradient_norms)
        self._log_metrics([("gradient_norm_by_lag", value, lag) for lag, value in lags])
        if covariates := result.bundle.model.covariates:
            self._client.log_dict(self.run_id, covariates.to_dict(), "covariates.json")
        self.log_table(worst(backtest), "worst_series.json")
        self._client.set_tag(self.run_id, "mlflow.note.content", _summary(result))
        self._client.set_tag(self.run_id, "stopped_by", result.stopped_by)
        for name, picture in figures_of(result, series).items():
            self.log_figure(picture, f"figures/{name}")

    def register(
        self, result: FitResult, series: Sequence[Series], *, tags: Mapping[str, str] | None = None
    ) -> RegisteredModel:
        """Log and register the bundle, without an alias.

        Args:
            result: the model and how it was fitted.
            series: of the data.
            tags: of the version, beside those that tell where it comes from.
        """
        tracking, bundle = self._config.tracking, result.bundle
        tags = {**self._origin(result, series), **(tags or {})}
        example = example_of(series, bundle.model)
        model_id = registry.log_bundle(self._client, tracking, self.run_id, bundle, example)
        self.log_metrics(result.backtest.metrics(), model_id, self._data)
        found = registry.register(self._client, tracking, model_id, description=_summary(result), tags=tags)
        self._client.set_tag(self.run_id, "registered_version", found.version)
        return found

    def try_out(self, version: RegisteredModel, rows: pl.DataFrame) -> str:
        """Try a version in a process of its own, say on its page what came of it, and return why it cannot be used."""
        tried = try_version(self._config.tracking, version.version, rows)
        status = {} if tried.passed else {"validation_status": "failed"}
        aliases.tag(self._client, self._config.tracking, version.version, {TRIED: tried.tag, **status})
        self._client.set_tag(self.run_id, TRIED, tried.tag)
        return tried.failure

    def _origin(self, result: FitResult, series: Sequence[Series]) -> dict[str, str]:
        """Return the tags of a version that tell what it was made of."""
        end_us = max(int(one_series.time_us[-1]) for one_series in series)
        tags = {"data_window_end": _time_text(end_us), "fingerprint": result.bundle.fingerprint}
        tags |= data_tags(self._config, series)
        tags |= {"dataset": f"{self._data.name} {self._data.digest}"} if self._data is not None else {}
        return tags | {name: self._tags[name] for name in _INHERITED if name in self._tags}

    def log_image(self, picture: "Image", name: str, step: int) -> None:
        """Log a picture of one step of many; the dashboard has a slider for them."""
        self._client.log_image(self.run_id, picture, key=name, step=step)

    def set_tag(self, name: str, value: str) -> None:
        """Set a tag of the run."""
        self._client.set_tag(self.run_id, name, value)

    def log_metrics(
        self, values: Mapping[str, float], model_id: str | None = None, data: "Dataset | None" = None
    ) -> None:
        """Log final figures by name, linked to a logged model and a data set if they are given."""
        self._log_metrics([(name, value, 0) for name, value in values.items()], model_id, data)

    def log_curve(self, name: str, values: Sequence[float]) -> None:
        """Log a figure of each step, counted from 1."""
        self._log_metrics([(name, value, step) for step, value in enumerate(values, start=1)])

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log columns as a table that the dashboard shows."""
        self._client.log_table(self.run_id, dict(columns), name)

    def log_text(self, text: str, name: str) -> None:
        """Log a text as a file."""
        self._client.log_text(self.run_id, text, name)

    def log_folder(self, folder: pathlib.Path, name: str) -> None:
        """Log the files of a folder under the name of a folder."""
        self._client.log_artifacts(self.run_id, str(folder), name)

    def log_models(self, model_ids: Sequence[str]) -> None:
        """Log which logged models the run uses."""
        from mlflow.entities import LoggedModelInput

        self._client.log_inputs(self.run_id, models=[LoggedModelInput(model_id) for model_id in model_ids])

    def log_figure(self, picture: "Figure", name: str) -> None:
        """Log a picture as a file."""
        self._client.log_figure(self.run_id, picture, name)

    def _log_metrics(
        self,
        values: Sequence[tuple[str, float, int]],
        model_id: str | None = None,
        data: "Dataset | None" = None,
    ) -> None:
        """Log (name, value, step); a figure that is not a number is left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {"dataset_name": data.name, "dataset_digest": data.digest} if data is not None else {}
        links = {"model_id": model_id, "run_id": self.run_id, **named}
        metrics = [Metric(name, value, now, step, **links) for name, value, step in values if math.isfinite(value)]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _summary(result: FitResult) -> str:
    backtest, config = result.backtest, result.bundle.model.config
    return (
        f"{config.cell.upper()} {config.num_layers} x {config.hidden_size}, {config.horizon} steps of"
        f" {result.bundle.frequency} ahead: MASE {backtest.mase:.3f}, seasonal naive"
        f" {backtest.seasonal_naive_mase:.3f}, skill {backtest.skill:.1%} over {backtest.origins:,} origins from"
        f" {_time_text(result.validation_time_us)} on"
    )


def _time_text(time_us: int) -> str:
    time_of = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)
    return time_of.isoformat().replace("+00:00", "Z")
