"""What MLflow knows of the version that a server serves: what its backtest said, and where its training's data end.

Knows the names under which backtests and trainings log; knows nothing of what drift is.
"""

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forecaster.arguments import utc_time
from forecaster.config import TrackingConfig
from forecaster.registry import registry
from pipelines.watching.drift import Reference

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_ROLES = ("champion_", "challenger_")  # before the names of a backtest's figures, and of the tags of its versions


@dataclass(frozen=True, slots=True)
class Served:
    """A served version.

    Args:
        version: its number.
        reference: its backtest's figures.
        trained_until: the last time of its training's data, None if it does not say.
    """

    version: str
    reference: Reference = field(default_factory=Reference)
    trained_until: dt.datetime | None = None


def served(config: TrackingConfig, version: str) -> Served:
    """Return what is known of a version: by its newest backtest, else by the validation tail of its training.

    Raises ModelNotFoundError if there is no version of this number.
    """
    client = registry.connect(config)
    found = registry.resolve(config, version)
    with registry.store_errors(config):
        experiment = registry.experiment_id(client, config)
        runs = [(_newest_backtest(client, experiment, config.model, role, version), role) for role in _ROLES]
        backtests = [(run, role) for run, role in runs if run is not None]
        run, role = max(backtests, key=lambda one: one[0].info.start_time, default=(client.get_run(found.run_id), ""))
        history = client.get_metric_history(run.info.run_id, f"{role}mase_by_horizon")
    names = {name: re.fullmatch(rf"{role}coverage_(\d+)", name) for name in run.data.metrics}
    coverage = {int(match[1]) / 100: run.data.metrics[name] for name, match in names.items() if match}
    end = found.tags.get("data_window_end")
    reference = Reference({one.step: one.value for one in history}, coverage)
    return Served(version, reference, utc_time(end) if end else None)


def _newest_backtest(client: "MlflowClient", experiment: str, model: str, role: str, version: str) -> "Run | None":
    asked = f"tags.step = 'backtest' AND tags.{role}version = '{version}' AND attributes.status = 'FINISHED'"
    found = client.search_runs([experiment], asked, order_by=["attributes.start_time DESC"])
    # The model's name may hold quotes, which MLflow's filters cannot.
    return next((run for run in found if run.data.tags.get("registered_model") == model), None)
