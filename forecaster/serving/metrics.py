"""What Prometheus is told, over HTTP on a port and a thread of its own: how it is with the server at that moment.

Everything is read when it is asked for, from counters and plain attributes; nothing here waits for an engine, reads its
tensors or asks its storage. A scrape amid a turn may see a series on its way into memory twice, or not at all.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from forecaster.errors import ConfigError
from forecaster.serving.backend import Backend, Phase, Served
from forecaster.serving.counters import BOUNDS_SECONDS, Calls, reasons
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.swap.version import ModelState, Version
from forecaster.serving.telemetry import LOGGER
from forecaster.serving.work.series import LiveScores

_CLIENT_SECONDS = 10.0  # one that says nothing for so long is let go of
_POLL_SECONDS = 0.05
_TAKEN = "Taken every serving.snapshot_seconds, not at the scrape."
_LIVE = "A mean over the series in memory that have been scored, newer forecasts weighing more. " + _TAKEN
_MODEL, _VERSION = ("model",), ("model", "version")
_HORIZON = (*_VERSION, "horizon")
Samples = Iterable[tuple[Sequence[str], float]]


class ServerCollector(Collector):
    """Reads what there is whenever it is asked.

    Args:
        backend: of the server.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its samples; any thread may ask, at any time of the server's life."""
        models = self._backend.models
        ready = float(self._backend.phase is Phase.SERVING)
        yield _gauge("ready", "1 while requests are served, 0 while recovering or shutting down.", (), [((), ready)])
        yield from _calls(self._backend.calls)
        yield from _memory(self._backend)
        yield from _work(models)
        yield from _states(models, self._backend)
        yield from _versions(models)
        yield from _live(models)


@contextlib.contextmanager
def exposed(backend: Backend) -> Iterator[int | None]:
    """While the block runs, answer on `serving.metrics_port`, and say on which port; on none if that is None.

    Raises ConfigError if it cannot listen there.
    """
    config = backend.config
    if config.metrics_port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(ServerCollector(backend))
    ProcessCollector(registry=registry)
    try:
        server = _listen(registry, config.host, config.metrics_port)
    except OSError as error:
        raise ConfigError(
            f"metrics cannot be served on {config.host} port {config.metrics_port}: {error.strerror or error}; "
            "choose another with --serving.metrics_port (0 takes a free one)"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)
    thread.start()
    host = f"[{config.host}]" if ":" in config.host else config.host
    LOGGER.info("metrics on http://%s:%d/metrics", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape is no event."""


def _listen(registry: CollectorRegistry, host: str, port: int) -> ThreadingWSGIServer:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    class Server(ThreadingWSGIServer):
        address_family = found[0][0]
        allow_reuse_port = False  # some Pythons would share a taken port

    return make_server(host, port, make_wsgi_app(registry), Server, _Handler)


def _gauge(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"forecaster_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"forecaster_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _calls(calls: Calls) -> Iterator[Metric]:
    ended = calls.by_code().items()
    yield _counter("rpcs", "RPCs that have ended, a stream at its end.", ("method", "code"), ended)
    text = "RPCs that were refused, by the error's reason; a sampled line of the log says more."
    yield _counter("refusals", text, ("method", "reason"), calls.by_reason().items())
    text = "How long unary RPCs took, and each message of a stream until its answer was made."
    family = HistogramMetricFamily("forecaster_rpc_duration_seconds", text, labels=("method",))
    for method, durations in calls.durations().items():
        buckets, total = [], 0
        for bound, count in zip((*map(str, BOUNDS_SECONDS), "+Inf"), durations.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric((method,), buckets, durations.seconds)
    yield family


def _memory(backend: Backend) -> Iterator[Metric]:
    budget = backend.intake.budget
    text = "Memory of what the requests under way were sent and answer, without small ones; about."
    yield _gauge("request_memory_bytes", text, (), [((), budget.used_bytes)])
    text = "Requests that would bring forecaster_request_memory_bytes past this are refused."
    yield _gauge("request_memory_limit_bytes", text, (), [((), budget.most_bytes)])


def _work(models: Sequence[Served]) -> Iterator[Metric]:
    def each(read: Callable[[Served], float]) -> Samples:
        return [((model.name,), read(model)) for model in models]

    text = "Rows (observations, series to forecast) that wait or are being worked on."
    yield _gauge("queue_rows", text, _MODEL, each(lambda one: one.batcher.queued))
    text = "Requests that would bring forecaster_queue_rows past this are refused."
    yield _gauge("queue_limit_rows", text, _MODEL, each(lambda one: one.batcher.max_queued))
    text = "Micro-batches of observations and forecasts."
    yield _counter("turns", text, _MODEL, each(lambda one: one.batcher.turns))
    observations = [
        ((model.name, outcome), float(sum(getattr(done, outcome) for done in model.batcher.done)))
        for model in models
        for outcome in ("applied", "duplicate", "rejected", "corrected", "filled")
    ]
    text = "Observations by outcome, without those of requests that were refused whole."
    yield _counter("observations", text, ("model", "outcome"), observations)
    rejected = [
        ((model.name, reason), float(n)) for model in models for reason, n in reasons(model.batcher.done).items()
    ]
    text = "Observations that were refused one by one, by the error's reason."
    yield _counter("rejected_observations", text, ("model", "reason"), rejected)
    text = "Forecasts that were answered, one for each series of a request."
    yield _counter("forecasts", text, _MODEL, each(lambda one: one.engine.done.forecasts))
    text = "The sequence of the journal's last record."
    yield _gauge("journal_last_sequence", text, _MODEL, each(lambda one: one.engine.done.journal_sequence))
    text = "Parts of the history that were met damaged or missing; the log and forecaster verify-state name them."
    yield _gauge("history_damaged_parts", text, _MODEL, each(lambda one: len(one.engine.storage.damaged())))
    text = "When snapshots were last written and the journal pruned, Unix time; stands still amid a replacement."
    yield _gauge("snapshot_round_timestamp_seconds", text, _MODEL, each(lambda one: one.maintenance.round_ended))


def _states(models: Sequence[Served], backend: Backend) -> Iterator[Metric]:
    every = [(model, lane) for model in models for lane in _lanes(model)]

    def each(read: Callable[[Lane], float]) -> Samples:
        return [((one.name, lane.version), read(lane)) for one, lane in every]

    yield _gauge("series", "Series that there are, in memory or not.", _VERSION, each(lambda lane: len(lane.store)))
    text = "Series whose states are in memory."
    yield _gauge("series_resident", text, _VERSION, each(lambda lane: len(lane.store.resident)))
    idle = [((model.name,), float(len(model.engine.idle))) for model in models]
    text = "Series that were not observed for serving.series_idle_seconds: not among forecaster_series."
    yield _gauge("series_idle", text, _MODEL, idle)
    text = "States in memory that are newer than their snapshots."
    yield _gauge("series_unsaved", text, _VERSION, each(lambda lane: lane.store.count_dirty()))
    text = "Series that were asked for and whose states cannot be had; ListSeries names them, and says why."
    yield _gauge("series_lost", text, _VERSION, each(lambda lane: lane.store.count_lost()))
    limits = (("registered", backend.config.max_series), ("resident", backend.config.max_resident_series))
    text = "Of each model: new series are refused past the one, states leave memory past the other."
    yield _gauge("series_limit", text, ("kind",), [((kind,), limit) for kind, limit in limits])


def _lanes(served: Served) -> list[Lane]:
    """Return the lanes as they are now: another thread may end a replacement meanwhile."""
    active, following = served.engine.lanes.active, served.engine.lanes.next
    return [active] if following is None or following is active else [active, following]


def _versions(models: Sequence[Served]) -> Iterator[Metric]:
    shown = [(model.name, version) for model in models for version in _recent(model)]
    states = [((name, one.registered.version, one.state.name.lower()), 1.0) for name, one in shown]
    text = "1 for the state of the served version, of those that are to replace it, and of those that failed since."
    yield _gauge("version_state", text, (*_VERSION, "state"), states)
    text = "The share of series that have been rebuilt under a version, 0 to 1."
    progress = [((name, one.registered.version), one.progress) for name, one in shown]
    yield _gauge("version_progress_ratio", text, _VERSION, progress)


def _recent(served: Served) -> list[Version]:
    """Return the served version and those that came up since: over the years there are many others."""
    active = served.versions.active
    others = [version for version in served.versions.all() if version.state is not ModelState.RETIRED]
    return [active, *(version for version in others if version is not active and version.changed > active.changed)]


def _live(models: Sequence[Served]) -> Iterator[Metric]:
    scores: list[tuple[tuple[str, ...], LiveScores]] = []
    for model in models:
        version, found = model.maintenance.live or ("", ())
        scores += [((model.name, version, str(score.horizon)), score) for score in found]
    known = [(labels, score) for labels, score in scores if score.scored]
    text = "Forecasts whose actual value has come, of all series in memory; falls when some leave. " + _TAKEN
    yield _gauge("live_scored_forecasts", text, _HORIZON, [(labels, score.scored) for labels, score in scores])
    text = "Mean absolute scaled error by steps ahead, an error counting for 20 at most. "
    yield _gauge("live_mase", text + _LIVE, _HORIZON, [(labels, score.mase) for labels, score in known])
    text = "The median over the series in memory of their mean absolute scaled errors, by steps ahead. " + _TAKEN
    yield _gauge("live_mase_median", text, _HORIZON, [(labels, score.mase_median) for labels, score in known])
    text = "Forecast minus actual value, in MASE's unit, by steps ahead. "
    yield _gauge("live_bias", text + _LIVE, _HORIZON, [(labels, score.bias) for labels, score in known])
    with_intervals = [(labels, score) for labels, score in known if score.nominal == score.nominal]  # not NaN
    coverage = [((*labels, "raw"), score.coverage) for labels, score in with_intervals]
    coverage += [((*labels, "calibrated"), score.calibrated_coverage) for labels, score in with_intervals]
    text = "Share of actual values within the model's own interval (raw), and the corrected one (calibrated). "
    yield _gauge("live_coverage_ratio", text + _LIVE, (*_HORIZON, "interval"), coverage)
    nominal = [(labels, score.nominal) for labels, score in with_intervals]
    text = "What forecaster_live_coverage_ratio should be."
    yield _gauge("live_nominal_coverage_ratio", text, _HORIZON, nominal)
