"""What the messages of observations and of forecasts share: the checks of ids, numbers, times and packed columns.

Shapes: N rows, C covariates.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from forecaster.config.values import MAX_MAGNITUDE
from forecaster.errors import FieldViolation, InvalidArgumentError
from forecaster.serving.work.series import LiveScores
from forecaster.v1 import forecast_service_pb2, observation_pb2

MAX_ID_CHARACTERS = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
MAX_VIOLATIONS = 10
ALLOWED = f"a finite number of at most {MAX_MAGNITUDE:g}"
MIN_TIME_US = -(2**53)  # 1684-07-28: far from the ends of what microseconds in 64 bits hold
MAX_TIME_US = 2**53  # 2255-06-05
_MANY = 32  # ids: from here on it pays to look at all of them at once


class Violations(list[FieldViolation]):
    """What is wrong with a request, by field: the first of it, and how much there is."""

    total = 0

    def add(self, field: str, description: str) -> None:
        """Note one wrong field."""
        self.total += 1
        if len(self) < MAX_VIOLATIONS:
            self.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        """Raise InvalidArgumentError naming the first of them and how many there are."""
        if self:
            more = f" (and {self.total - 1} more)" if self.total > 1 else ""
            raise InvalidArgumentError(f"{self[0].field}: {self[0].description}{more}", self)


def check_series_id(series_id: str, field: str, violations: Violations) -> None:
    """Note what is wrong with a series id."""
    if not 1 <= len(series_id) <= MAX_ID_CHARACTERS:
        violations.add(field, f"a series id has 1 to {MAX_ID_CHARACTERS} characters, not {len(series_id)}")
    elif _CONTROL.search(series_id):
        violations.add(field, "a series id holds no control characters")


def check_series_ids(series_ids: Sequence[str], field: str, violations: Violations) -> None:
    """Note what is wrong with series ids, all of which have to differ."""
    if len(series_ids) < _MANY or not _plainly_right(series_ids):
        for i, series_id in enumerate(series_ids):
            check_series_id(series_id, f"{field}[{i}]", violations)
    if len(set(series_ids)) != len(series_ids):
        violations.add(field, "an id stands twice")


def _plainly_right(series_ids: Sequence[str]) -> bool:
    """Return whether ids are right, judged by their bytes all at once; of right ones, only very long ones may fail."""
    joined = np.frombuffer("\0".join(series_ids).encode(), np.uint8)
    ends = np.flatnonzero(joined < 0x20)
    if len(ends) != len(series_ids) - 1:  # there are other control characters than those between the ids
        return False
    lengths = np.diff(ends, prepend=-1, append=len(joined)) - 1
    c1 = (joined[:-1] == 0xC2) & (joined[1:] < 0xA0)  # U+0080 to U+009F in UTF-8
    return bool(
        lengths.min() >= 1 and lengths.max() <= MAX_ID_CHARACTERS and not (joined == 0x7F).any() and not c1.any()
    )


def check_name(name: str, known: Sequence[str], what: str, field: str, violations: Violations) -> bool:
    """Note a name that the model does not know; return whether it does."""
    if name in known:
        return True
    shown = f"it knows {', '.join(known)}" if known else "it knows none"
    violations.add(field, f"{name!r} is no {what} of the model: {shown}")
    return False


def check_number(value: float, field: str, violations: Violations) -> None:
    """Note a number that is not finite or too large."""
    if not abs(value) <= MAX_MAGNITUDE:
        violations.add(field, f"{value} is not {ALLOWED}; leave a missing one out")


def time_us(stamp: Timestamp, field: str, violations: Violations) -> int:
    """Return a time in microseconds; notes what is wrong with it."""
    if not 0 <= stamp.nanos < 1_000_000_000:
        violations.add(f"{field}.nanos", f"{stamp.nanos} is not 0 to 999999999")
    elif stamp.nanos % 1000:
        violations.add(field, "times are in whole microseconds")
    elif not MIN_TIME_US <= stamp.seconds * 1_000_000 <= MAX_TIME_US:
        violations.add(field, "the time is outside the years 1685 to 2254")
    else:
        return stamp.seconds * 1_000_000 + stamp.nanos // 1000
    return 0


def packed(
    given: Iterable[float], missing_rows: Iterable[int], field: str, violations: Violations
) -> npt.NDArray[np.float64]:
    """Return a packed column, NaN where missing; notes what is wrong with it."""
    values = np.array(given, dtype=np.float64)
    missing = np.array(missing_rows, dtype=np.int64)
    if len(missing) and (missing.max() >= len(values) or (np.diff(missing) <= 0).any()):
        violations.add(f"{field}.missing_rows", "they must ascend and lie within the rows")
        return values
    wrong = ~(np.abs(values) <= MAX_MAGNITUDE)
    wrong[missing] = False
    for row in np.flatnonzero(wrong)[:MAX_VIOLATIONS]:
        violations.add(f"{field}.values[{row}]", f"{values[row]} is not {ALLOWED}; list a missing one in missing_rows")
    values[missing] = math.nan
    return values


def covariate_columns(
    messages: Sequence[observation_pb2.CovariateColumn],
    known: Sequence[str],
    what: str,
    field: str,
    violations: Violations,
) -> tuple[tuple[str, ...], npt.NDArray[np.float64] | None]:
    """Return the names and values of packed covariates, [rows, C]; notes what is wrong with them.

    Args:
        messages: one for each covariate.
        known: names that may be given.
        what: those names are.
        field: where the messages are.
        violations: what is wrong.
    """
    names = tuple(message.name for message in messages)
    if not names:
        return (), None
    seen: set[str] = set()
    for k, name in enumerate(names):
        check_name(name, known, what, f"{field}.covariates[{k}].name", violations)
        if name in seen:
            violations.add(f"{field}.covariates[{k}].name", f"{name!r} stands twice")
        seen.add(name)
    if not seen.issubset(known) or len(seen) < len(names):  # they may be far more than the model has
        return names, None
    parts = [
        packed(message.values, message.missing_rows, f"{field}.covariates[{k}]", violations)
        for k, message in enumerate(messages)
    ]
    if len({len(part) for part in parts}) > 1:
        violations.add(f"{field}.covariates", "the columns differ in length")
        return names, None
    return names, np.stack(parts, axis=1)


def to_timestamp(time_us: int) -> Timestamp:
    """Return microseconds since the Unix epoch as a message."""
    seconds, rest = divmod(time_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def to_duration(duration_us: int) -> Duration:
    """Return non-negative microseconds as a message."""
    seconds, rest = divmod(duration_us, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def to_live_scores(scores: Iterable[LiveScores]) -> list[forecast_service_pb2.LiveScores]:
    """Return live scores as messages; what is not known is absent."""
    return [
        forecast_service_pb2.LiveScores(
            horizon=score.horizon,
            scored_count=score.scored,
            mase=_known(score.mase),
            bias=_known(score.bias),
            nominal_coverage=_known(score.nominal),
            coverage=_known(score.coverage),
            calibrated_coverage=_known(score.calibrated_coverage),
        )
        for score in scores
    ]


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
