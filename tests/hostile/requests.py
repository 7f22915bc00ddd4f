"""Requests as bytes: at the limits of what a message may hold, and beyond."""

from collections.abc import Sequence

from forecaster.v1 import forecast_service_pb2 as api

ROWS = 65_536  # that one request may have
LARGEST_BYTES = 576 * ROWS
START_US, HOUR_US = 1_600_000_000 // 3600 * 3_600_000_000, 3_600_000_000


def columns(ids: Sequence[str], indices: Sequence[int], times_us: Sequence[int], values: Sequence[float]) -> bytes:
    """Return an `Observe` request of packed columns."""
    request = api.ObserveRequest()
    part = request.columns
    part.series_ids.extend(ids)
    part.series_indices.extend(indices)
    part.observation_times_us.extend(times_us)
    part.values.extend(values)
    return request.SerializeToString()


def row_messages(count: int, *, covariates: int) -> bytes:
    """Return so many rows as messages, each with so many covariates that no model knows."""
    request = api.ObserveRequest()
    names = [f"c{k}" for k in range(covariates)]
    for k in range(count):
        row = request.observations.add(series_id=f"m{k // 16}", value=1.0, covariates=dict.fromkeys(names, 1.0))
        row.observation_time.seconds = START_US // 1_000_000 + 3600 * (k % 16)
    return request.SerializeToString()


def rows_of(num_bytes: int) -> bytes:
    """Return as many bytes of observations as there may be, with ids that are as long as those have to be."""
    request = api.ObserveRequest()
    row = request.observations.add(series_id="x" * 560)
    row.observation_time.seconds = START_US // 1_000_000
    raw = request.SerializeToString()
    return raw * min(num_bytes // len(raw), ROWS)


def covariate_columns(count: int) -> bytes:
    """Return one row with so many columns of covariates."""
    request = api.ObserveRequest()
    for k in range(count):
        request.columns.covariates.add(name=str(k))
    request.columns.series_ids.append("a")
    request.columns.series_indices.append(0)
    request.columns.observation_times_us.append(START_US)
    request.columns.values.append(1.0)
    return request.SerializeToString()


def futures(count: int) -> bytes:
    """Return a request for a forecast with so many empty futures."""
    request = api.ForecastRequest(series_ids=["a"])
    options = api.StreamForecastsRequest().options
    options.future_covariates.add()
    return request.SerializeToString() + b"\x1a" + _varint(2 * count) + options.SerializeToString() * count


def levels(count: int) -> bytes:
    """Return a request for a forecast with so many levels of quantiles."""
    request = api.ForecastRequest(series_ids=["a"])
    request.options.quantile_levels.extend([0.1 + 0.8 * k / count for k in range(count)])
    return request.SerializeToString()


def attribute(count: int) -> bytes:
    """Return static covariates of one series, so many numbers."""
    request = api.ObserveRequest()
    request.attributes.add(series_id="a", numbers={str(k): 1.0 for k in range(count)})
    return request.SerializeToString()


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
