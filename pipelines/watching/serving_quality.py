"""How good a server is, on MLflow's dashboard beside the trainings: one run for each served version.

The runs are those of the experiment `serving`, tagged with the model's name and version and linked to its logged model;
a version that is served again, or a restart, goes on with its run. Steps are minutes since the run's beginning.

Knows metrics pages and MLflow's client; knows nothing of what anything should be.
"""

import dataclasses
import math
import queue
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from forecaster.config import Config, TrackingConfig
from forecaster.errors import ConfigError, ForecasterError, ModelNotFoundError, UnavailableError
from forecaster.registry import registry
from pipelines.stop_requests import on_stop, stopped_within
from pipelines.watching.metrics_page import MetricsPage, fetch

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "serving"
_NAME, _VERSION = "model_name", "model_version"


class ServingQuality:
    """The serving runs of one registered model.

    Args:
        config: names the store and the model.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self._config = dataclasses.replace(config, experiment=EXPERIMENT)
        self._client = registry.connect(config)
        self._run: tuple[str, str, int, str | None] | None = None  # version, run id, start in ms, logged model's id

    def log(self, page: MetricsPage) -> str:
        """Add what a page says to its version's run, and return the run's id.

        Raises:
            UnavailableError: the page says nothing of the model, or the store cannot be used.
            ModelNotFoundError: the store does not know the version.
        """
        if page.version is None:
            raise UnavailableError(f"the server does not serve {page.model!r}")
        from mlflow.entities import Metric

        with registry.store_errors(self._config):
            if self._run is None or self._run[0] != page.version:
                self.close()
                self._run = self._opened(page.version)
            _, run_id, start_ms, model_id = self._run
            now = int(time.time() * 1000)
            step = (now - start_ms) // 60_000
            metrics = [Metric(name, value, now, step, model_id=model_id) for name, value in figures(page)]
            self._client.log_batch(run_id, metrics=metrics)
        return run_id

    def note(self, text: str) -> None:
        """Say something on the page of the run under way."""
        if self._run is not None:
            with registry.store_errors(self._config):
                self._client.set_tag(self._run[1], "mlflow.note.content", text)

    def close(self) -> None:
        """End the run under way, if there is one; it can be gone on with."""
        run, self._run = self._run, None
        if run is not None:
            with registry.store_errors(self._config):
                self._client.set_terminated(run[1], "FINISHED")

    def _opened(self, version: str) -> tuple[str, str, int, str | None]:
        """Return the run of a version, made or gone on with."""
        from mlflow.entities import LoggedModelInput

        registered = registry.resolve(self._config, version)  # raises where a number from a page is none of ours
        model_id = registered.model_id
        experiment = registry.experiment_id(self._client, self._config)
        run = self._found(experiment, version)
        if run is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {_NAME: registered.name, _VERSION: version, "step": "monitor"}
            run = self._client.create_run(experiment, run_name=f"{registered.name} {version}", tags=tags)
            if model_id:
                self._client.log_inputs(run.info.run_id, models=[LoggedModelInput(model_id)])
        return version, run.info.run_id, run.info.start_time, model_id or None

    def _found(self, experiment: str, version: str) -> "Run | None":
        asked = f"tags.{_VERSION} = '{version}'"
        found = self._client.search_runs([experiment], asked, order_by=["attributes.start_time DESC"])
        # The model's name may hold quotes, which MLflow's filters cannot.
        return next((run for run in found if run.data.tags.get(_NAME) == self._config.model), None)


def figures(page: MetricsPage) -> Iterator[tuple[str, float]]:
    """Yield what a page says, by the names that the dashboard groups; what is not known is left out."""
    width = max((len(str(score.horizon)) for score in page.live), default=1)
    for score in page.live:
        for name, value in dataclasses.asdict(score).items():
            if name != "horizon" and math.isfinite(value):
                yield f"live_{name}/horizon_{score.horizon:0{width}d}", float(value)
    yield from page.counts.items()


def monitor(config: Config, *, stream: TextIO | None = None) -> int:
    """Log a server's quality every `schedule.poll_seconds` until SIGTERM or SIGINT, and return 0.

    Raises ConfigError if no server is named, UnavailableError if the store cannot be used at the beginning.
    """
    url, stream = config.schedule.metrics_url, stream or sys.stderr
    if url is None:
        raise ConfigError("there is no server to watch: name its metrics page with --schedule.metrics_url")
    quality = ServingQuality(config.tracking)
    stops: queue.SimpleQueue[None] = queue.SimpleQueue()
    with on_stop(lambda: stops.put(None)):
        while True:
            try:
                quality.log(fetch(url, config.tracking.model))
            except (UnavailableError, ModelNotFoundError) as error:  # the next time tries again
                stream.write(f"{error}\n")
            if stopped_within(stops, config.schedule.poll_seconds):
                break
        try:
            quality.close()
        except ForecasterError as error:
            stream.write(f"{error}\n")
    return 0
