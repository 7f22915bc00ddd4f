"""How busy the machine is while a run goes on: MLflow's system metrics, written to the run's own store.

Knows MLflow's monitor; knows nothing of what the run does.
"""

import contextlib
import logging
from collections.abc import Iterator

from forecaster.config import TrackingConfig


@contextlib.contextmanager
def system_metrics(config: TrackingConfig, run_id: str) -> Iterator[None]:
    """Log CPU, memory, disk and network, and a GPU if there is one, every ten seconds and at the end.

    MLflow's own variables change it: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, and
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, tracking_uri=config.uri, resume_logging=True)
    monitor.collect_metrics()  # the first figures of the CPU are since this one
    for one in monitor.monitors:
        one.clear_metrics()
    monitor.start()
    try:
        yield
    finally:
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.finish()
