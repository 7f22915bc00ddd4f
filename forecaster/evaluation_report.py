"""Evaluate a registered model on a file, beside the baselines on the same origins.

`forecaster evaluate` calls `evaluate`. Knows the order of the steps and how the result looks; how forecasts are made
and scored is `evaluation`'s and `baseline_scores`'.
"""

import dataclasses
import datetime as dt
import json
import math
import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from forecaster.config import Config, require
from forecaster.data.report import inspect_frame
from forecaster.data.schema import has_made_up_times, read_frame
from forecaster.data.wide import following
from forecaster.data.windows import Series, latest_segments, past, split_at
from forecaster.errors import ConfigError, DataError
from forecaster.evaluation.baseline_scores import score_baselines
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import mase_units, rolling_origin
from forecaster.evaluation.scores import COVERAGES, Backtest, owa
from forecaster.model.bundle import Bundle
from forecaster.registry.registry import load_bundle

Choice = Literal["rolling", "last"]

_HORIZONS = 14  # scored if nobody says how many: two weeks of hourly data and a horizon of a day
_MOST_SHARE = 3  # of the data, at most one part in so many is scored then
_POINT = {"MASE": "mase", "sMAPE": "smape", "OWA": "owa", "RMSE": "rmse", "MAE": "mae"}
_QUANTILES = {"pinball": "pinball", "WQL": "wql", "MSIS": "msis"}
_COVERAGES = {f"in {p:.0%}": f"coverage_{round(100 * p)}" for p in COVERAGES}
_NAMES = {"model": "model", "seasonal_naive": "seasonal naive", "naive": "naive", "naive2": "Naive2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What an evaluation found.

    Args:
        model: the registered model's name and version.
        first_time: the first time that is forecast.
        scores: the model's, and each baseline's on the same pairs of origin and step, by name.
    """

    model: str
    first_time: dt.datetime
    scores: dict[str, Backtest]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the figures of each row; a baseline is a point forecast and has no more than a point's."""
        rows = {}
        for name, scored in self.scores.items():
            figures = scored.metrics() | {"owa": owa(scored, self.scores["naive2"])}
            shown = {**_POINT, **_QUANTILES, **_COVERAGES} if name == "model" else _POINT
            rows[name] = {key: figures[key] for key in shown.values()}
        return rows

    def table(self) -> str:
        """Return the figures as a table for people; what does not apply, or could not be scored, is '-'."""
        columns = {**_POINT, **_QUANTILES, **_COVERAGES}
        lines = [" " * 15 + "".join(f"{title:>9}" for title in columns)]
        for name, figures in self.metrics().items():
            cells = [_cell(figures.get(key, math.nan)) for key in columns.values()]
            lines.append(f"{_NAMES[name]:<15}" + "".join(f"{cell:>9}" for cell in cells))
        return "\n".join(lines)

    def line(self) -> str:
        """Return what was scored."""
        model = self.scores["model"]
        scored = sum(one_series.pairs > 0 for one_series in model.series)
        since = self.first_time.isoformat().replace("+00:00", "Z")
        return f"{self.model}, {model.origins:,} origins of {scored:,} series, forecasts of {since} on"

    def write(self, path: pathlib.Path, *, by_series: bool) -> None:
        """Write everything as JSON, NaN as null; with `by_series` every row's scores of each series too."""
        model = self.scores["model"]
        plain: dict[str, Any] = {
            "model": self.model,
            "first_time": self.first_time.isoformat(),
            "origins": model.origins,
            "series": len(model.series),
            "metrics": self.metrics(),
            "mase_by_horizon": {name: scored.mase_by_horizon for name, scored in self.scores.items()},
            "calibration": {str(level): share for level, share in model.calibration.items()},
        }
        if by_series:
            plain["by_series"] = {
                name: [_of_series(one_series, name == "model") for one_series in scored.series]
                for name, scored in self.scores.items()
            }
        try:
            path.write_text(json.dumps(without_nan(plain), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror}") from error


def evaluate(
    config: Config,
    *,
    version: str = "champion",
    origins: Choice = "rolling",
    since: dt.datetime | None = None,
    horizons: int | None = None,
    actual: str | None = None,
) -> EvaluationReport:
    """Score a registered model on the configured data.

    Args:
        config: its data and tracking.
        version: the registered version or alias.
        origins: forecast from every step, or once: from the last step behind which a whole horizon is known.
        since: the first time that is forecast; left out, the first of `actual`, or with rolling origins that of the
            last `horizons`.
        horizons: how many of the model's horizons are forecast at the end of the data; left out, 14, but no more than
            the last third of the longest series.
        actual: a file in the same layout with what came after the configured data.

    Raises:
        DataError: the data cannot be used, or no forecast can be scored.
        ConfigError: options contradict each other.
    """
    _check_choices(origins, since, horizons, actual)
    registered, bundle = load_bundle(config.tracking, version)
    if bundle.step_us != config.data.step_us:
        raise ConfigError(f"the model has a step of {bundle.frequency}, --data.frequency says {config.data.frequency}")
    config = dataclasses.replace(config, data=bundle.model.covariates.read_by(config.data))
    frame, first_us = _read(config, actual)
    inspect_frame(frame, config.data).raise_for_errors()
    series = latest_segments(frame, bundle.step_us, bundle.max_gap_steps, config.data)
    end_us = max(one_series.end_us for one_series in series)
    if first_us is not None and origins == "last":
        _require_horizon(end_us - first_us, bundle)
    if first_us is None:
        steps = _scored_steps(bundle, series, 1 if origins == "last" else horizons)
        first_us = bundle.grid.time(end_us, -steps) if since is None else int(since.timestamp() * 1_000_000)
    scores = _score(bundle, series, first_us, first_us if origins == "last" else end_us)
    if scores["model"].origins == 0:
        raise DataError(
            f"no forecast of {_time(first_us)} on can be scored: each takes {bundle.model.config.min_history} values"
            " before it, one a season before, and a value to compare it with"
        )
    return EvaluationReport(
        model=f"{registered.name} version {registered.version}", first_time=_time(first_us), scores=scores
    )


def _check_choices(origins: Choice, since: dt.datetime | None, horizons: int | None, actual: str | None) -> None:
    """Raise ConfigError for two answers to which forecasts are scored."""
    if since is not None and (actual is not None or origins == "last"):
        raise ConfigError("--since is for rolling origins without --actual: leave one of them out")
    if horizons is not None:
        require(horizons >= 1, "horizons", horizons, "1 or more")
        if since is not None or actual is not None or origins == "last":
            raise ConfigError("--horizons is for rolling origins without --since and --actual: leave it or them out")


def _scored_steps(bundle: Bundle, series: list[Series], horizons: int | None) -> int:
    """Return how many steps at the end of the data are forecast."""
    horizon = bundle.model.config.horizon
    if horizons is not None:
        return horizons * horizon
    return max(min(_HORIZONS * horizon, max(map(len, series)) // _MOST_SHARE), horizon)


def without_nan(value: Any) -> Any:
    """Return a value of dicts, lists and scalars with None for every number that is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score(bundle: Bundle, series: list[Series], first_us: int, last_us: int) -> dict[str, Backtest]:
    model = bundle.model.config
    season = (model.season_lengths or (1,))[0]
    units = mase_units(split_at(series, first_us)[0], season)
    backtest = rolling_origin(bundle.model, series, first_time_us=first_us, last_time_us=last_us, units=units)
    where = Origins(
        first_time_us=first_us,
        last_time_us=last_us,
        horizon=model.horizon,
        season=season,
        min_history=model.min_history or 1,
    )
    return {"model": backtest} | score_baselines(series, where, units)


def _read(config: Config, actual: str | None) -> tuple[pl.DataFrame, int | None]:
    """Return the data, with what came after it if that is a file of its own, and the first time of that."""
    frame = past(read_frame(config.data), config.data)
    if actual is None:
        return frame, None
    continued = dataclasses.replace(config.data, path=actual)
    came = read_frame(continued)
    if unknown := sorted(set(came["unique_id"]) - set(frame["unique_id"])):
        raise DataError(f"{actual} has {len(unknown)} series that the data has not, such as {unknown[0]!r}")
    if has_made_up_times(continued):
        came = following(came, frame, config.data.step_us)
    first, last = came["ds"].dt.epoch("us").min(), frame["ds"].dt.epoch("us").max()
    if not isinstance(first, int) or not isinstance(last, int) or first <= last:
        raise DataError(f"{actual} begins before the data ends: it has to hold what came afterwards")
    return pl.concat([frame, came], how="diagonal_relaxed"), first


def _require_horizon(length_us: int, bundle: Bundle) -> None:
    steps, horizon = bundle.grid.index(0, length_us), bundle.model.config.horizon
    if steps > horizon:
        raise ConfigError(f"--actual has {steps} steps, the model forecasts {horizon}: take --origins rolling")


def _time(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)


def _cell(value: float) -> str:
    """Return a figure in at most eight characters."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.0f}" if abs(value) < 1e7 else f"{value:.1e}"


def _of_series(one: Any, intervals: bool) -> dict[str, Any]:
    named: dict[str, Any] = dataclasses.asdict(one)
    coverage = {f"coverage_{round(100 * p)}": share for p, share in named.pop("coverage").items()}
    if intervals:
        return named | coverage
    return {key: named[key] for key in ("unique_id", "pairs", "mase", "smape", "mae", "rmse", "bias")}
