"""When to retrain."""

from dataclasses import dataclass

from forecaster.config.checks import require, require_types
from forecaster.config.cron import cron_trigger, time_zone
from forecaster.config.frequency import parse_frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """When to retrain.

    Args:
        cron: five fields such as `0 3 * * *`; left out, no fixed time.
        every: an interval such as 6h; left out, none.
        time_zone: of the cron fields, such as Europe/Berlin.
        ingest_every: an interval at which what is new of the sources is ingested between the retrainings, so that the
            inputs can be looked at; left out, only retrainings ingest.
        metrics_url: of a running server, such as http://127.0.0.1:9464/metrics; left out, nothing is watched.
        poll_seconds: how often the server is asked.
        new_observations: retrain after the server has taken so many since the last time; left out, never for that.
        drift: retrain when the server's live scores or the inputs have drifted; left out, wherever a server is asked.
        max_mase_ratio: drift is a live MASE of so many times the backtest's,
        max_bias_ratio: or a live bias of so much of the backtest's MASE,
        coverage_tolerance: or intervals whose live coverage is so far away from what it should be,
        max_stability_index: or a population stability index of the inputs so much above those that stretches of the
            training window have.
        min_scored: forecasts to have been scored, of each horizon, before any of its live scores counts.
        correlation: of neighbouring scores of a series, and of scores of two series, that is assumed: how much less
            many scores tell than as many independent ones.
        drift_pause: after a retraining for drift there is no other for drift for this time, such as 6h.
        retries: of a retraining that failed.
        retry_seconds: before the first of them; doubled each time.
        stop_seconds: for a retraining to keep what it has, when the scheduler is to end; then it is killed.
        lease: a database's URL in which one row says who retrains; left out, a file beside the data set.
        lease_seconds: how long others wait after whoever retrains has gone silent.
        lease_wait_seconds: how long to wait for another that retrains, before giving up.
    """

    cron: str | None = None
    every: str | None = None
    time_zone: str = "UTC"
    ingest_every: str | None = None
    metrics_url: str | None = None
    poll_seconds: float = 60.0
    new_observations: int | None = None
    drift: bool | None = None
    max_mase_ratio: float = 1.5
    max_bias_ratio: float = 0.5
    coverage_tolerance: float = 0.1
    max_stability_index: float = 0.25
    min_scored: int = 500
    correlation: float = 0.2
    drift_pause: str = "6h"
    retries: int = 3
    retry_seconds: float = 60.0
    stop_seconds: float = 60.0
    lease: str | None = None
    lease_seconds: float = 30.0
    lease_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "schedule")
        positive = ("poll_seconds", "retry_seconds", "stop_seconds", "lease_seconds")
        for name in (*positive, "max_bias_ratio", "coverage_tolerance", "max_stability_index"):
            require(getattr(self, name) > 0, f"schedule.{name}", getattr(self, name), "more than 0")
        require(self.max_mase_ratio > 1, "schedule.max_mase_ratio", self.max_mase_ratio, "more than 1")
        require(0 <= self.correlation < 1, "schedule.correlation", self.correlation, "0 or more and below 1")
        require(self.retries >= 0, "schedule.retries", self.retries, "0 or more")
        require(self.min_scored >= 1, "schedule.min_scored", self.min_scored, "1 or more")
        wait = self.lease_wait_seconds
        require(wait >= 0, "schedule.lease_wait_seconds", wait, "0 or more seconds")
        for name in ("every", "ingest_every", "drift_pause"):
            if getattr(self, name) is not None:
                parse_frequency(getattr(self, name), f"schedule.{name}")
        asked = self.new_observations
        require(asked is None or asked >= 1, "schedule.new_observations", asked, "1 or more")
        if self.cron is not None:
            cron_trigger(self.cron, self.time_zone)
        elif self.time_zone != "UTC":
            time_zone(self.time_zone)
        ok = asked is None or self.metrics_url is not None
        require(ok, "schedule.new_observations", asked, "it together with schedule.metrics_url")

    @property
    def watches_drift(self) -> bool:
        """Whether drift of a server's live scores, or of the inputs, is looked for."""
        return self.metrics_url is not None and self.drift is not False
