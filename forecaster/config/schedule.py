"""When to retrain."""

from dataclasses import dataclass

from forecaster.config.checks import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """When to retrain.

    Args:
        cron: five fields such as `0 3 * * *`; left out, no fixed time.
        every: an interval such as 6h; left out, none.
        time_zone: of the cron fields, such as Europe/Berlin.
        metrics_url: of a running server, such as http://127.0.0.1:9090/metrics; left out, nothing is watched.
        poll_seconds: how often the server is asked.
        new_observations: retrain after so many since the last time; left out, never for that.
        drift: retrain when the server's live scores or the inputs have drifted.
        max_mase_ratio: drift is a live MASE of so many times the backtest's,
        coverage_tolerance: or intervals whose live coverage is so far away from what it should be,
        max_stability_index: or a population stability index of the inputs above this.
        min_scored: forecasts to have been scored, of each horizon, before any of it counts.
        retries: of a retraining that failed.
        retry_seconds: before the first of them; doubled each time.
        lease: a database's URL in which one row says who retrains; left out, a file beside the data set.
    """

    cron: str | None = None
    every: str | None = None
    time_zone: str = "UTC"
    metrics_url: str | None = None
    poll_seconds: float = 60.0
    new_observations: int | None = None
    drift: bool = True
    max_mase_ratio: float = 1.5
    coverage_tolerance: float = 0.1
    max_stability_index: float = 0.25
    min_scored: int = 500
    retries: int = 3
    retry_seconds: float = 60.0
    lease: str | None = None

    def __post_init__(self) -> None:
        for name in ("poll_seconds", "max_mase_ratio", "coverage_tolerance", "max_stability_index", "retry_seconds"):
            require(getattr(self, name) > 0, f"schedule.{name}", getattr(self, name), "more than 0")
        require(self.retries >= 0, "schedule.retries", self.retries, "0 or more")
        require(self.min_scored >= 1, "schedule.min_scored", self.min_scored, "1 or more")
        asked = self.new_observations
        require(asked is None or asked >= 1, "schedule.new_observations", asked, "1 or more")
