"""What MLflow knows of the version that a server serves: what its backtest said, and where its training's data end.

Knows the names under which trainings log; knows nothing of what drift is.
"""

import datetime as dt
import re
from dataclasses import dataclass, field

from forecaster import registry
from forecaster.arguments import utc_time
from forecaster.config import TrackingConfig
from pipelines.drift import Reference


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
    """Return what is known of a version; raises ModelNotFoundError if there is none of this number."""
    client = registry.connect(config)
    found = registry.resolve(config, version)
    with registry.store_errors(config):
        history = client.get_metric_history(found.run_id, "mase_by_horizon")
        metrics = client.get_run(found.run_id).data.metrics
    names = {name: re.fullmatch(r"coverage_(\d+)", name) for name in metrics}
    coverage = {int(match[1]) / 100: metrics[name] for name, match in names.items() if match}
    end = found.tags.get("data_window_end")
    reference = Reference({one.step: one.value for one in history}, coverage)
    return Served(version, reference, utc_time(end) if end else None)
