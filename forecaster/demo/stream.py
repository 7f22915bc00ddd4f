"""Stream hours of observations to a server that is killed on the way, and keep what it forecast.

Knows the client and the server's process; knows nothing of training or of how forecasts are scored.

Shapes: B series, K origins, D horizon steps, Q quantiles.
"""

import concurrent.futures
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from forecaster.client import ForecastClient, ModelInfo
from forecaster.demo.server_process import ServerProcess

_SETTLE = 2  # calls after a start that are not timed: the first ones open the connection


@dataclass(frozen=True, slots=True)
class Kept:
    """What a server knows of what it acknowledged, in observed values."""

    acknowledged: int
    recovered: int
    lost: int
    applied_twice: int


@dataclass(slots=True, kw_only=True)
class Streamed:
    """What came back from the stream.

    Args:
        quantiles: of every origin, float64 [B, K, D, Q].
        origins: the forecasts' first times less one step, [K].
        forecast_ms: round trips of one request for all series, client's side.
        observe_ms: round trips of one hour of all series, durable.
        after_kill: what was kept over the SIGKILL.
        in_flight: requests under way at the SIGKILL that were not answered.
        restart_seconds: from the SIGKILL to serving.
    """

    quantiles: npt.NDArray[np.float64]
    origins: list[object]
    forecast_ms: list[float] = field(default_factory=list)
    observe_ms: list[float] = field(default_factory=list)
    after_kill: Kept = field(default_factory=lambda: Kept(0, 0, 0, 0))
    in_flight: int = 0
    restart_seconds: float = 0.0


def load(client: ForecastClient, history: pl.DataFrame) -> float:
    """Send a whole history; return the seconds it took. Raises ForecasterError if a row is refused."""
    began = time.monotonic()
    client.observe(history).raise_for_rejections()
    return time.monotonic() - began


def stream(
    server: ServerProcess,
    client: ForecastClient,
    history: pl.DataFrame,
    later: pl.DataFrame,
    *,
    after_kill: Callable[[pl.DataFrame, pl.DataFrame], None],
    progress: Callable[[Iterable[pl.DataFrame]], Iterable[pl.DataFrame]],
) -> Streamed:
    """Forecast every series, observe the next hour of every series, and so on; kill the server half-way.

    Args:
        server: serves the history already.
        client: of the server.
        history: what the server knows.
        later: what is streamed: columns unique_id, ds, y.
        after_kill: called with all that was sent and the forecasts that follow, once the server is back.
        progress: shows how far it is.

    Raises:
        ForecasterError: an observation is refused or a forecast fails.
    """
    ids = sorted(history["unique_id"].unique())
    model = client.get_model()
    hours = later.partition_by("ds", maintain_order=True)
    shape = (len(ids), len(hours), model.horizon, len(model.quantile_levels))
    result = Streamed(quantiles=np.full(shape, np.nan), origins=[hour["ds"][0] - model.step for hour in hours])
    unsettled = _SETTLE
    for k, hour in enumerate(progress(hours)):
        began = time.perf_counter()
        forecasts = client.forecast(ids, quantile_levels=model.quantile_levels)
        forecast_ms = 1e3 * (time.perf_counter() - began)
        result.quantiles[:, k] = as_array(forecasts, model)
        if k == len(hours) // 2:
            _kill_amid(server, client, hour, result)
            sent = pl.concat([history, *hours[: k + 1]])
            result.after_kill = kept(client, sent, model)
            after_kill(sent, client.forecast(ids, quantile_levels=model.quantile_levels))
            unsettled = _SETTLE
            continue
        began = time.perf_counter()
        client.observe(hour).raise_for_rejections()
        if unsettled:
            unsettled -= 1
            continue
        result.observe_ms.append(1e3 * (time.perf_counter() - began))
        result.forecast_ms.append(forecast_ms)
    return result


def _kill_amid(server: ServerProcess, client: ForecastClient, hour: pl.DataFrame, result: Streamed) -> None:
    """Send an hour, each series on its own, and kill the server as the first answer comes; the client retries."""
    rows = hour.partition_by("unique_id")
    with concurrent.futures.ThreadPoolExecutor(len(rows)) as pool:
        calls = [pool.submit(client.observe, row) for row in rows]
        concurrent.futures.wait(calls, return_when=concurrent.futures.FIRST_COMPLETED)
        server.kill()
        result.in_flight = sum(not call.done() for call in calls)
        result.restart_seconds = server.start()
        for call in calls:
            call.result().raise_for_rejections()


def kept(client: ForecastClient, sent: pl.DataFrame, model: ModelInfo) -> Kept:
    """Compare what a server knows with what it has acknowledged, series by series.

    A value more than was sent was applied twice, one less was lost; a clock that stands elsewhere counts too.
    """
    wanted = sent.group_by("unique_id").agg(values=pl.col("y").count(), clock=pl.col("ds").max())
    infos = list(client.list_series())
    found = pl.DataFrame(
        {
            "unique_id": [info.unique_id for info in infos],
            "found": [info.observed_length for info in infos],
            "found_clock": [info.last_ds for info in infos],
        },
        schema={"unique_id": pl.String, "found": pl.Int64, "found_clock": pl.Datetime("us", "UTC")},
    )
    both = wanted.join(found, on="unique_id", how="left").with_columns(
        pl.col("found").fill_null(0), pl.col("found_clock").fill_null(pl.col("clock"))
    )
    values = both["found"].to_numpy() - both["values"].to_numpy().astype(np.int64)
    clocks = (both["found_clock"] - both["clock"]).to_numpy() // np.timedelta64(model.step)
    surplus = np.concatenate([values, clocks])
    return Kept(
        acknowledged=int(both["values"].sum()),
        recovered=int(both["found"].sum()),
        lost=int(-surplus.clip(max=0).sum()),
        applied_twice=int(surplus.clip(min=0).sum()),
    )


def as_array(forecasts: pl.DataFrame, model: ModelInfo) -> npt.NDArray[np.float64]:
    """Return a client's forecasts of all series as an array [B, D, Q], in the order of the ids asked for."""
    quantiles = forecasts.select(f"q{level:g}" for level in model.quantile_levels).to_numpy()
    return quantiles.reshape(-1, model.horizon, len(model.quantile_levels))
