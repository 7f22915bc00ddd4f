"""What MLflow tells people of a model: its inputs and outputs, what it needs, how it is used.

Knows bundles and MLflow's schemas; knows nothing of stores.
"""

import importlib.metadata
from typing import TYPE_CHECKING

from forecaster.model.bundle import Bundle

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODEL_TAGS = {"task": "time-series-forecasting", "library": "forecaster", "framework": "torch"}
MODEL_DESCRIPTION = """Streaming time-series forecaster: a recurrent encoder-decoder whose state the server keeps.

- **In**: a history in rows of `unique_id`, `ds` (UTC), `y` and the model's covariates.
- **Out**: for every series and step ahead the median `y_hat` and the quantiles `q…`; `params={"horizon": 6}` asks for
  fewer steps.
- **Load**: `mlflow.pyfunc.load_model("models:/NAME@champion").predict(frame)`, `mlflow models serve -m
  models:/NAME@champion --env-manager local`, or `forecaster serve`, which keeps states and follows `@champion`.
- **Aliases**: `champion` is served, `challenger` is the newest candidate, `previous` was the champion before.
- **Tags of a version**: `validation_status`, `data_window_end`, `dataset`, `trigger`, `started_from`, `git_sha`,
  `fingerprint`; its run has the figures.
"""
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "polars", "pyarrow", "safetensors", "torch")


def requirements() -> list[str]:
    """Return what the model needs, pinned to what is installed; this package itself is on no index."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS]


def signature(bundle: Bundle) -> "ModelSignature":
    """Return the columns that go in and come out, and the parameters."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    series, spec = [ColSpec("string", "unique_id"), ColSpec("datetime", "ds")], bundle.model.covariates
    levels = [ColSpec("double", f"q{level:g}") for level in bundle.model.config.quantile_levels]
    beside = [ColSpec("double", name) for name in ("y", *spec.dynamic, *(covariate.name for covariate in spec.static))]
    beside += [ColSpec("string", category.name) for category in spec.categories]
    return ModelSignature(
        inputs=Schema([*series, *beside]),
        outputs=Schema([*series, ColSpec("double", "y_hat"), *levels]),
        params=ParamSchema([ParamSpec("horizon", "integer", bundle.model.config.horizon)]),
    )
