"""A server's metrics page: what it says of one model.

Knows the names of the metrics; knows nothing of what they should be.
"""

import http.client
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from forecaster.errors import UnavailableError
from forecaster.proxies import is_loopback

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 64 * 2**20
_Labels = Mapping[str, str]
_Samples = Sequence[tuple[str, _Labels, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Live scores of one horizon, means over the server's series; NaN where there are none yet.

    Args:
        horizon: steps ahead.
        scored: forecasts whose actual value has come.
        mase: in the unit of `forecaster.serving`, each series' mean change over a season as it is at the time.
        mase_median: of the same, where `mase` is the mean over the series.
        bias: forecast minus actual value, in the same unit.
        coverage: of the model's own interval,
        calibrated_coverage: of the corrected one,
        nominal: and what both should be.
    """

    horizon: int
    scored: int
    mase: float = math.nan
    mase_median: float = math.nan
    bias: float = math.nan
    coverage: float = math.nan
    calibrated_coverage: float = math.nan
    nominal: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """What a server says of one model at one moment.

    Args:
        model: the registered model's name.
        version: that is served; None if the server does not serve the model.
        live: by ascending horizon; of `version`.
        counts: such as `series`, `queue_rows` and `forecasts_total`, by the names that a dashboard shows.
        applied: observations since the server's start.
        started: when it started, Unix time; NaN if it does not say.
    """

    model: str
    version: str | None
    live: tuple[Live, ...]
    counts: Mapping[str, float]
    applied: int
    started: float

    @property
    def resident(self) -> int:
        """How many series the live scores are of, at the most."""
        return int(self.counts.get("series_resident", 0))


def fetch(url: str, model: str) -> MetricsPage:
    """Return what a server says of a model; raises UnavailableError if it does not answer as one of ours."""
    try:
        with _opener(url).open(url, timeout=_TIMEOUT_SECONDS) as answer:
            text = answer.read(_MOST_BYTES).decode()
        return parse(text, model)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise UnavailableError(f"{url} cannot be read: {getattr(error, 'reason', error)}") from error


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return what opens a URL: by the environment's proxy, but on loopback directly."""
    host = urllib.parse.urlsplit(url).hostname or ""
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_loopback(host) else []))


def parse(text: str, model: str) -> MetricsPage:
    """Return what a page says of a model; raises ValueError if it is no metrics page."""
    samples = [
        (sample.name.removeprefix("forecaster_"), sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    mine = [(name, labels, value) for name, labels, value in samples if labels.get("model") == model]
    states = {labels["version"]: labels["state"] for name, labels, _ in mine if name == "version_state"}
    active = next((version for version, state in states.items() if state == "active"), None)
    scored = {labels["version"] for name, labels, _ in mine if name == "live_scored_forecasts"}
    version = next(iter(scored), active) if active not in scored else active
    here = [(name, labels, value) for name, labels, value in mine if labels.get("version", version) == version]
    counts = _counts(here) | _rpcs([(labels, value) for name, labels, value in samples if name == "rpcs_total"])
    started = next((value for name, _, value in samples if name == "process_start_time_seconds"), math.nan)
    applied = int(counts.get("observations_applied_total", 0))
    return MetricsPage(model=model, version=version, live=_live(here), counts=counts, applied=applied, started=started)


def _live(samples: _Samples) -> tuple[Live, ...]:
    """Return the live scores out of one version's samples."""
    fields: dict[int, dict[str, float]] = {}
    for name, labels, value in samples:
        if not name.startswith("live_"):
            continue
        field = _FIELDS.get((name, labels.get("interval")))
        if field is not None:
            fields.setdefault(int(labels["horizon"]), {})[field] = value
    return tuple(
        Live(horizon=horizon, scored=int(found.pop("scored", 0)), **found) for horizon, found in sorted(fields.items())
    )


_FIELDS = {
    ("live_scored_forecasts", None): "scored",
    ("live_mase", None): "mase",
    ("live_mase_median", None): "mase_median",
    ("live_bias", None): "bias",
    ("live_coverage_ratio", "raw"): "coverage",
    ("live_coverage_ratio", "calibrated"): "calibrated_coverage",
    ("live_nominal_coverage_ratio", None): "nominal",
}
_SHOWN = ("series", "series_resident", "queue_rows", "turns_total", "forecasts_total")


def _counts(samples: _Samples) -> dict[str, float]:
    counts = {name: value for name, _, value in samples if name in _SHOWN}
    outcomes = {labels["outcome"]: value for name, labels, value in samples if name == "observations_total"}
    return counts | {f"observations_{outcome}_total": value for outcome, value in outcomes.items()}


def _rpcs(samples: Sequence[tuple[_Labels, float]]) -> dict[str, float]:
    """Return how many requests there were of all models, which gRPC does not tell apart, and how many failed."""
    failed = sum(value for labels, value in samples if labels["code"] != "OK")
    return {"requests_total": sum(value for _, value in samples), "requests_failed_total": failed}
