"""A bundle as MLflow sees it: a pyfunc model from code, which MLflow copies into every logged model.

It forecasts from histories given whole, for MLflow's own tools (`mlflow models predict`, batch scoring); the
server keeps states instead. Importing this file hands MLflow the model, which is how models from code work.

Knows nothing of the registry, of gRPC or of training.
"""

import pathlib
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
import polars as pl
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from forecaster.config import DataConfig
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import Series, known_future, latest_segments
from forecaster.errors import InvalidArgumentError, TooLittleHistoryError
from forecaster.evaluation.rolling import forecast
from forecaster.model.bundle import Bundle


class PyfuncForecaster(PythonModel):
    """Forecasts every series of a long frame from its end on."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle."""
        self._bundle = Bundle.load(pathlib.Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return forecasts.

        Args:
            context: not used.
            model_input: columns `unique_id`, `ds` (UTC without a zone, as MLflow wants it), `y` (NaN is missing) and
                the model's covariates. If some of them are known for the future, the rows behind a series' last value
                are its future, and the forecast begins with the first of them.
            params: `horizon`, in steps; left out, the trained one.

        Returns:
            Columns `unique_id`, `ds` (UTC, without a zone), `y_hat` (the median) and `q<level>` for every
            trained quantile level, by series and time.
        """
        bundle, model = self._bundle, self._bundle.model
        horizon = int((params or {}).get("horizon", model.config.horizon))
        if not 1 <= horizon <= model.config.horizon:
            raise InvalidArgumentError(f"horizon={horizon} is not allowed: use 1 to {model.config.horizon}")
        data = model.covariates.read_by(DataConfig(frequency=bundle.frequency))
        frame = canonical_frame(pl.from_pandas(model_input), data)
        segments = latest_segments(frame, bundle.step_us, bundle.max_gap_steps, data)
        _require_history(segments, model.config.min_history or 1)
        future = torch.from_numpy(known_future(frame, segments, horizon, data))
        quantiles = forecast(model, segments, horizon, future).numpy()  # [B, D, Q]
        starts = np.array([segment.end_us for segment in segments])
        times = bundle.grid.time(starts[:, None], np.arange(horizon))
        columns = {f"q{level:g}": quantiles[..., i].ravel() for i, level in enumerate(model.config.quantile_levels)}
        return pd.DataFrame(
            {
                "unique_id": np.repeat([segment.unique_id for segment in segments], horizon),
                "ds": times.ravel().astype("datetime64[us]"),
                "y_hat": columns["q0.5"],
                **columns,
            }
        )


def _require_history(segments: list[Series], needed: int) -> None:
    short = [segment.unique_id for segment in segments if np.isfinite(segment.values).sum() < needed]
    if short:
        raise TooLittleHistoryError(
            f"{len(short)} series have fewer than {needed} values after their last long gap, the first is {short[0]}"
        )


mlflow.models.set_model(PyfuncForecaster())
