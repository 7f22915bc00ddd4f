"""How much one message may hold of everything that it repeats: what the largest allowed request needs, and no more.

They are written in the comments of `proto/` too. Knows the API's fields; knows nothing of models or bytes.

Shapes: R rows that one request may have.
"""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from forecaster.serving.intake.wire import Most, Scanner

MAX_TEXT_BYTES = 1024  # 256 characters of UTF-8
MAX_TOKEN_BYTES = 2048  # of a page token, which holds such a text
MAX_LEVELS = 1000  # of quantiles
MAX_NAMES = 1000  # covariates of one row, series or future
COVARIATES_OF_A_ROW = 32  # of as many rows as there may be; fewer rows may have more
_ROW_BYTES = 320  # id, time, value and index of a row
_LEAST_ROWS = 4096  # limits of the bytes are never made for less: what is checked later says more
_SMALL_METHOD_BYTES = 65_536
_ENTRIES_OF_A_ROW = 4  # in a map, or messages in a message


def _by_field(rows: int) -> dict[str, Most]:
    """Return the limits of all repeated fields, by name without the package."""
    numbers, entries = COVARIATES_OF_A_ROW * rows, _ENTRIES_OF_A_ROW * rows
    names = Most(MAX_NAMES, entries)
    series, columns = Most(rows), Most(rows, numbers)
    return {
        "ObserveRequest.observations": series,
        "ObserveRequest.attributes": series,
        "ForecastHistoryRequest.observations": series,
        "ForecastHistoryRequest.attributes": series,
        "StreamForecastsRequest.observations": series,
        "StreamForecastsRequest.attributes": series,
        "Observation.covariates": names,
        "SeriesAttributes.numbers": names,
        "SeriesAttributes.categories": names,
        "ObservationColumns.series_ids": series,
        "ObservationColumns.series_indices": series,
        "ObservationColumns.observation_times_us": series,
        "ObservationColumns.values": series,
        "ObservationColumns.missing_rows": series,
        "ObservationColumns.covariates": Most(MAX_NAMES),
        "CovariateColumn.values": columns,
        "CovariateColumn.missing_rows": columns,
        "ForecastRequest.series_ids": series,
        "WatchForecastsRequest.series_ids": series,
        "ForecastOptions.quantile_levels": Most(MAX_LEVELS),
        "ForecastOptions.future_covariates": Most(rows + 1),  # one for all series
        "FutureCovariates.covariates": names,
    }


class MessageLimits:
    """The limits of a server whose requests may have so many rows.

    Args:
        rows: R.
    """

    def __init__(self, rows: int) -> None:
        self._rows = max(rows, _LEAST_ROWS)
        self._by_field = _by_field(self._rows)

    @property
    def largest_bytes(self) -> int:
        """Of the largest message that any method takes."""
        return self._rows * (_ROW_BYTES + 8 * COVARIATES_OF_A_ROW)

    def most_bytes(self, kind: Descriptor) -> int:
        """Return the largest size of a kind of message."""
        return self.largest_bytes if any(field.is_repeated for field in kind.fields) else _SMALL_METHOD_BYTES

    def scanner(self, kind: Descriptor) -> Scanner:
        """Return what measures a kind of message."""
        return Scanner(kind, self._most, _longest, _ENTRIES_OF_A_ROW * self._rows)

    def _most(self, field: FieldDescriptor) -> Most:
        holder = field.containing_type
        assert holder is not None
        return self._by_field[f"{holder.name}.{field.name}"]


def _longest(field: FieldDescriptor) -> int:
    return MAX_TOKEN_BYTES if field.name == "page_token" else MAX_TEXT_BYTES
