"""Models and the seasonal naive on the same forecasts of the newest data.

What is compared are pairs of origin and step that all of them can forecast, in the same MASE units. Knows bundles and
series; knows nothing of MLflow or of which model is in production.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from forecaster.config import DataConfig
from forecaster.data.grid import Grid
from forecaster.data.schema import canonical_frame
from forecaster.data.windows import Series, split_at, to_segments
from forecaster.errors import ConfigError
from forecaster.evaluation.baseline_scores import score_baselines
from forecaster.evaluation.origins import Origins
from forecaster.evaluation.rolling import mase_units, score_model
from forecaster.evaluation.scores import Backtest
from forecaster.model.bundle import Bundle

NAIVE = "seasonal_naive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The newest stretch of the data.

    Args:
        first_us: its first time.
        last_us: its last.
        step_us: from one time to the next.
        folds: the first times of the stretches that it is cut into.
    """

    first_us: int
    last_us: int
    step_us: int
    folds: tuple[int, ...]

    @classmethod
    def of(cls, first_us: int, last_us: int, step_us: int, folds: int) -> "Window":
        """Cut a window into stretches of about as many steps each, fewer than `folds` if it has fewer steps."""
        grid = Grid(step_us)
        steps = grid.index(first_us, last_us) + 1
        count = min(folds, steps)
        starts = tuple(grid.time(first_us, k * steps // count) for k in range(count))
        return cls(first_us=first_us, last_us=last_us, step_us=step_us, folds=starts)

    @property
    def steps(self) -> int:
        """How many times lie in it."""
        return int(Grid(self.step_us).index(self.first_us, self.last_us)) + 1

    def stretches(self) -> list[tuple[int, int]]:
        """Return the first and the last time of each fold."""
        lasts = [*(Grid(self.step_us).time(start, -1) for start in self.folds[1:]), self.last_us]
        return list(zip(self.folds, lasts, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all models are asked for.

    Args:
        horizon: the shortest of theirs.
        min_history: the longest of theirs.
        season: of the seasonal naive and of MASE's units, the first model's.
        max_gap_steps: the shortest of theirs: a longer gap makes a series start afresh for all.
        notes: what differs among the models, and what was made of it.
    """

    horizon: int
    min_history: int
    season: int
    max_gap_steps: int
    notes: tuple[str, ...]


def common_terms(models: Mapping[str, Bundle]) -> Terms:
    """Return the terms of models by name; raises ConfigError if their time steps differ."""
    first = next(iter(models.values()))
    if odd := [name for name, model in models.items() if model.step_us != first.step_us]:
        steps = ", ".join(f"{name} {model.frequency}" for name, model in models.items())
        raise ConfigError(f"models of different time steps cannot be compared ({steps}): register {odd[0]} elsewhere")
    configs = {name: model.model.config for name, model in models.items()}
    horizons = {name: config.horizon for name, config in configs.items()}
    histories = {name: config.min_history or 1 for name, config in configs.items()}
    seasons = {name: (config.season_lengths or (1,))[0] for name, config in configs.items()}
    gaps = {name: model.max_gap_steps for name, model in models.items()}
    season = seasons[next(iter(seasons))]
    notes = [
        *_note("horizons", horizons, f"the first {min(horizons.values())} steps are compared"),
        *_note("model.min_history", histories, f"forecasts after {max(histories.values())} values are compared"),
        *_note("seasons", seasons, f"the seasonal naive repeats {season} steps"),
        *_note("data.max_gap_steps", gaps, f"a gap of more than {min(gaps.values())} steps cuts series for all"),
        *_note(
            "quantile levels",
            {name: config.quantile_levels for name, config in configs.items()},
            "their pinball losses cannot be compared",
        ),
    ]
    return Terms(
        horizon=min(horizons.values()),
        min_history=max(histories.values()),
        season=season,
        max_gap_steps=min(gaps.values()),
        notes=tuple(notes),
    )


def score_all(
    models: Mapping[str, Bundle], frame: pl.DataFrame, data: DataConfig, window: Window, terms: Terms
) -> dict[str, list[Backtest]]:
    """Return the scores of each model and of the seasonal naive: of the whole window, then of each fold.

    Args:
        models: by name.
        frame: canonical, with the history before the window.
        data: what the frame was read by.
        window: the first steps of the forecasts that are scored lie in it.
        terms: see `common_terms`.
    """
    by_columns: dict[DataConfig, list[Series]] = {}
    scores, units = {}, None
    series: Sequence[Series] = ()
    origins = Origins(
        first_time_us=window.first_us,
        last_time_us=window.last_us,
        horizon=terms.horizon,
        season=terms.season,
        min_history=terms.min_history,
    )
    for name, bundle in models.items():
        columns = bundle.model.covariates.read_by(data)
        if columns not in by_columns:
            by_columns[columns] = _series(frame, data, columns, terms.max_gap_steps)
        series = by_columns[columns]
        units = mase_units(split_at(series, window.first_us)[0], terms.season) if units is None else units
        scores[name] = score_model(bundle.model, series, origins, units, window.folds)
    parts = [origins, *_by_fold(origins, window)]
    scores[NAIVE] = [score_baselines(series, part, units or {}, [NAIVE])[NAIVE] for part in parts]
    counts = {tuple(one_series.pairs for one_series in score[0].series) for score in scores.values()}
    assert len(counts) == 1, "all are scored on the same pairs of origin and step"
    return scores


def absent_covariates(models: Mapping[str, Bundle], frame: pl.DataFrame) -> list[str]:
    """Return a note for each model that knows covariates which the data has not."""
    notes = []
    for name, bundle in models.items():
        lacking = [
            covariate
            for covariate in bundle.model.covariates.read_by(DataConfig()).covariates
            if covariate not in frame.columns
        ]
        if lacking:
            notes.append(f"the data has no column {', '.join(lacking)}, which the {name} knows: it is missing for it")
    return notes


def _series(frame: pl.DataFrame, data: DataConfig, columns: DataConfig, max_gap_steps: int) -> list[Series]:
    """Return the series with the covariates of one model; a column that the data has not is missing throughout."""
    if columns != data:
        lacking = [name for name in columns.beside if name not in frame.columns]
        types = {name: pl.String if name in columns.static_categories else pl.Float64 for name in lacking}
        frame = frame.with_columns(pl.lit(None, type_).alias(name) for name, type_ in types.items())
        canonical = {"id_column": "unique_id", "time_column": "ds", "target_column": "y"}
        frame = canonical_frame(frame, dataclasses.replace(columns, **canonical))  # type: ignore[arg-type]  # texts
    return to_segments(frame, columns.step_us, max_gap_steps, columns)


def _by_fold(origins: Origins, window: Window) -> list[Origins]:
    """Return the origins of each fold; some series' grids may lie between the window's times."""
    last = window.step_us - 1
    return [
        dataclasses.replace(origins, first_time_us=since, last_time_us=min(until + last, window.last_us))
        for since, until in window.stretches()
    ]


def _note(what: str, values: Mapping[str, object], consequence: str) -> list[str]:
    if len(set(values.values())) == 1:
        return []
    return [f"the {what} differ ({', '.join(f'{name} {value}' for name, value in values.items())}): {consequence}"]
