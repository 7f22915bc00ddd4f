"""What the demonstration found: a table for people, a JSON file for programs.

Knows nothing of servers or of how the figures come about.
"""

import dataclasses
import json
import pathlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """The figures of one demonstration.

    Args:
        series: streamed.
        hours: streamed.
        horizon: steps of every forecast.
        mase: of the medians that the server sent, mean over the series.
        seasonal_naive_mase: of the value 24 hours before, on the same pairs.
        coverage_80: share of actual values inside the server's 80 % intervals.
        observations_acknowledged: observed values that the server had acknowledged, the history included, when
            it was back after the SIGKILL.
        observations_recovered: those that it then knew.
        lost: values acknowledged but not known, after the SIGKILL and at the end.
        applied_twice: values known more often than sent, after the SIGKILL and at the end.
        unanswered_at_kill: requests that the SIGKILL left without an answer, and that the client sent again.
        restart_seconds: from the SIGKILL to serving again.
        offline_difference: largest relative difference to the offline model's forecasts over the same history,
            at the end; relative to the forecast or to the series' MASE unit, whichever is larger.
        offline_difference_after_kill: the same right after the SIGKILL.
        forecast_p50_ms: round trip of one request for all series, the whole horizon and all quantiles.
        forecast_p99_ms: the 99th percentile.
        observe_p50_ms: round trip of one hour of all series, journaled.
        observe_p99_ms: the 99th percentile.
        history_rows: sent in bulk at first.
        history_seconds: that took.
        train_seconds: wall-clock time of the pipeline step `train`, from the file to the registered version.
    """

    series: int
    hours: int
    horizon: int
    mase: float
    seasonal_naive_mase: float
    coverage_80: float
    observations_acknowledged: int
    observations_recovered: int
    lost: int
    applied_twice: int
    unanswered_at_kill: int
    restart_seconds: float
    offline_difference: float
    offline_difference_after_kill: float
    forecast_p50_ms: float
    forecast_p99_ms: float
    observe_p50_ms: float
    observe_p99_ms: float
    history_rows: int
    history_seconds: float
    train_seconds: float

    def write(self, path: pathlib.Path) -> None:
        """Write the figures as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def table(self) -> str:
        """Return the figures as aligned lines."""
        ratio = self.mase / self.seasonal_naive_mase
        known = self.observations_recovered
        worst = max(self.offline_difference, self.offline_difference_after_kill)
        lines = [
            ("accuracy", "MASE", f"{self.mase:.3f}", f"seasonal naive {self.seasonal_naive_mase:.3f}: ×{ratio:.2f}"),
            ("", "values in the 80 % interval", f"{self.coverage_80:.1%}", ""),
            ("kill -9", "acknowledged, recovered", f"{known:,}", f"of {self.observations_acknowledged:,} values"),
            ("", "lost, applied twice", f"{self.lost}, {self.applied_twice}", self._retried()),
            ("", "serving again after", f"{self.restart_seconds:.1f} s", ""),
            ("exact", "server against offline model", f"{worst:.0e}", "largest relative difference"),
            ("speed", "forecast, p50", f"{self.forecast_p50_ms:.1f} ms", self._one_request()),
            ("", "forecast, p99", f"{self.forecast_p99_ms:.1f} ms", ""),
            ("", "observe, p50", f"{self.observe_p50_ms:.1f} ms", f"{self.series} series × 1 hour, on disk"),
            ("", "history", f"{self.history_seconds:.1f} s", f"{self.history_rows:,} rows in bulk, on disk"),
            ("", "training", f"{self.train_seconds:.0f} s", "from the file to the registered version"),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        rows = [
            f"  {part:<{widths[0]}}  {name:<{widths[1]}}  {value:>{widths[2]}}  {note}".rstrip()
            for part, name, value, note in lines
        ]
        return "\n".join(rows)

    def _retried(self) -> str:
        return f"{self.unanswered_at_kill} requests were under way, and sent again"

    def _one_request(self) -> str:
        return f"{self.series} series × {self.horizon} steps in one request"
