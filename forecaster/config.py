"""The configuration of data, model, training, tracking and serving: frozen values, validated once.

One YAML file describes all of it; `forecaster.cli` reads the file and passes these objects on.
This module knows nothing of files, of the command line or of the environment.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from forecaster.errors import ConfigError, FieldViolation

Cell = Literal["gru", "lstm", "rnn_tanh", "rnn_relu"]
Initialization = Literal["orthogonal", "xavier", "identity"]
DurabilityName = Literal["commit", "interval", "none"]

_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 7 * 86_400_000_000,
}
_DAY_US = _UNIT_US["d"]
_MAX_SEASON = 2048
_QUANTILE_LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ConfigError naming the field, the offending value and the allowed range."""
    if not condition:
        message = f"{name}={value!r} is not allowed: use {allowed}"
        raise ConfigError(message, [FieldViolation(name, message)])


def parse_frequency(text: str) -> int:
    """Return the step of a frequency such as `1h`, `15m` or `1h30m`, in microseconds.

    Raises ConfigError for anything that is not a fixed, positive duration (months and years vary).
    """
    hint = "a fixed duration such as 1h, 15m, 1h30m, 1d or 1w"
    if re.search(r"\d(mo|M|q|Q|y|Y)", text):
        hint += " (months and years vary in length)"
    parts = re.findall(r"(\d+)(us|ms|mo|s|m|h|d|w)", text)
    pandas = re.fullmatch(r"(\d*)(min|h|H|d|D|w|W|s|S|ms|us)", text)  # what people are used to from elsewhere
    if pandas and not parts:
        hint += f"; did you mean {pandas[1] or 1}{pandas[2].lower().replace('min', 'm')}?"
    require("".join(n + u for n, u in parts) == text and bool(parts), "data.frequency", text, hint)
    require(all(unit in _UNIT_US for _, unit in parts), "data.frequency", text, hint)
    step_us = sum(int(n) * _UNIT_US[unit] for n, unit in parts)
    require(step_us > 0, "data.frequency", text, hint)
    return step_us


def default_season_lengths(step_us: int) -> tuple[int, ...]:
    """Return the seasons that a time step suggests, in steps: day and week, week, or year.

    Hourly data gets (24, 168), 15-minute data (96, 672), daily data (7,), weekly data (52,); a season
    longer than 2,048 steps is left out, because it would have to fit in every series' state.
    """
    if step_us < _DAY_US:
        periods = [_DAY_US, 7 * _DAY_US]
    elif step_us < 7 * _DAY_US:
        periods = [7 * _DAY_US]
    else:
        periods = [364 * _DAY_US]
    seasons = [period // step_us for period in periods if period % step_us == 0]
    return tuple(m for m in seasons if 2 <= m <= _MAX_SEASON)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the series are and how to read them.

    Args:
        path: a CSV or Parquet file in long format; left out, the bundled New York airport weather.
        id_column: names the series.
        time_column: the time stamp; without a zone it is taken as UTC.
        target_column: the value to forecast; empty means missing.
        frequency: the fixed time step, for example 1h, 15m, 1d.
        max_gap_steps: after a longer gap a series starts afresh.
    """

    path: str | None = None
    id_column: str = "unique_id"
    time_column: str = "ds"
    target_column: str = "y"
    frequency: str = "1h"
    max_gap_steps: int = 1000

    def __post_init__(self) -> None:
        parse_frequency(self.frequency)
        require(self.max_gap_steps >= 1, "data.max_gap_steps", self.max_gap_steps, "1 or more")
        columns = (self.id_column, self.time_column, self.target_column)
        require(len(set(columns)) == 3, "data.*_column", columns, "three different column names")

    @property
    def step_us(self) -> int:
        """The time step in microseconds."""
        return parse_frequency(self.frequency)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture of the forecaster.

    Args:
        cell: the recurrent cell: gated (gru, lstm) or plain (rnn_tanh, rnn_relu).
        initialization: of the recurrent weights: orthogonal keeps norms through time; identity, with rnn_relu, keeps
            states (Le et al. 2015); xavier is what feed-forward weights get.
        hidden_size: units of each layer.
        num_layers: stacked layers, joined by residual connections.
        decoder_size: units of the decoder's hidden layer.
        horizon: the longest horizon, in steps.
        season_lengths: in steps, ascending; left out, they follow from the frequency (hourly: 24, 168).
        timescale: over how many steps the running level and scale forget; left out, the longest season.
        quantile_levels: the probabilities to learn, ascending, symmetric or not, with 0.5 among them.
        min_history: observed steps that a series needs before it is forecast; left out, one short season.
        dropout: probability of dropping an encoder output during training.
        calendar: use the hour of the day, the day of the week and the time of the year; of no use where times are
            made up.
    """

    cell: Cell = "gru"
    initialization: Initialization = "orthogonal"
    hidden_size: int = 64
    num_layers: int = 2
    decoder_size: int = 64
    horizon: int = 24
    season_lengths: tuple[int, ...] | None = None
    timescale: int | None = None
    quantile_levels: tuple[float, ...] = _QUANTILE_LEVELS
    min_history: int | None = None
    dropout: float = 0.1
    calendar: bool = True

    def __post_init__(self) -> None:
        require(self.cell in get_args(Cell), "model.cell", self.cell, " or ".join(get_args(Cell)))
        choices = get_args(Initialization)
        require(self.initialization in choices, "model.initialization", self.initialization, " or ".join(choices))
        for name, low, high in (("hidden_size", 1, 4096), ("num_layers", 1, 16), ("decoder_size", 1, 4096)):
            require(low <= getattr(self, name) <= high, f"model.{name}", getattr(self, name), f"{low} to {high}")
        require(1 <= self.horizon <= 10_000, "model.horizon", self.horizon, "1 to 10000 steps")
        if self.season_lengths is not None:
            seasons = tuple(self.season_lengths)
            ok = all(2 <= m <= _MAX_SEASON for m in seasons) and sorted(set(seasons)) == list(seasons)
            require(ok, "model.season_lengths", seasons, f"ascending whole numbers from 2 to {_MAX_SEASON}, or []")
        if self.timescale is not None:
            require(self.timescale >= 2, "model.timescale", self.timescale, "2 or more steps")
        if self.min_history is not None:
            require(self.min_history >= 1, "model.min_history", self.min_history, "1 or more steps")
        levels = self.quantile_levels
        ok = all(0 < p < 1 for p in levels) and sorted(set(levels)) == list(levels) and 0.5 in levels
        require(ok, "model.quantile_levels", levels, "ascending probabilities between 0 and 1, with 0.5 among them")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 or more and below 1")

    def resolve(self, step_us: int) -> "ModelConfig":
        """Return the same configuration with everything filled in that follows from the time step."""
        seasons = self.season_lengths
        if seasons is None:
            seasons = default_season_lengths(step_us)
        return dataclasses.replace(
            self,
            season_lengths=tuple(seasons),
            timescale=self.timescale or (max(seasons) if seasons else 64),
            min_history=self.min_history or (min(seasons) if seasons else 8),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the model is fitted.

    Args:
        max_epochs: epochs at the most; an epoch is one pass over all series, or several over few.
        max_seconds: wall-clock limit of the fitting; left out, none.
        patience: epochs without a better validation loss before it stops.
        validation_steps: the last steps of the data, held out to choose the epoch; left out, 14 horizons, or a
            fifth of the longest series if that is less.
        holdout: keep the tail for choosing the epoch; without, it is learnt from too and the last epoch is kept.
        min_updates: updates of the weights in an epoch, at the least; few series are passed over and over.
        series_per_batch: series, or lanes of long series, in one batch.
        chunk_steps: steps between two updates of the weights; the carried state is detached there.
        origin_stride: score the forecasts of every so many steps of a chunk, from a random one on.
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: AdamW's.
        gradient_clip_norm: clip the gradient's global norm to this.
        average_decay: decay of the running average of the weights that is kept as the model.
        seed: of every random choice.
        threads: torch threads; null is torch's own choice, far slower as soon as another process is busy.
        device: cpu or cuda.
        checkpoint_dir: where checkpoints go; left out, a temporary folder.
        resume: continue from the last checkpoint in `checkpoint_dir`.
    """

    max_epochs: int = 6
    max_seconds: float | None = None
    patience: int = 6
    validation_steps: int | None = None
    holdout: bool = True
    min_updates: int = 60
    series_per_batch: int = 32
    chunk_steps: int = 84
    origin_stride: int = 8
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    gradient_clip_norm: float = 1.0
    average_decay: float = 0.98
    seed: int = 1
    threads: int | None = 1
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_dir: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "min_updates", "series_per_batch", "chunk_steps", "origin_stride"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "1 or more")
        positive = ("learning_rate", "gradient_clip_norm")
        for name in positive:
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), f"training.{name}", value, "a positive number")
        require(0 <= self.average_decay < 1, "training.average_decay", self.average_decay, "0 or more and below 1")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        ok = self.max_seconds is None or self.max_seconds > 0
        require(ok, "training.max_seconds", self.max_seconds, "a positive number of seconds")
        ok = self.validation_steps is None or self.validation_steps >= 1
        require(ok, "training.validation_steps", self.validation_steps, "1 or more")
        require(self.threads is None or self.threads >= 1, "training.threads", self.threads, "1 or more")
        ok = not self.resume or self.checkpoint_dir is not None
        require(ok, "training.resume", self.resume, "it together with training.checkpoint_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """Where runs and registered models are kept.

    Args:
        uri: MLflow's tracking store.
        artifacts: folder or URL of the artifacts; left out, a folder `mlartifacts` beside a SQLite store, the
            choice of the server otherwise.
        experiment: the experiment's name.
        model: the registered model's name.
    """

    uri: str = "sqlite:///mlflow.db"
    artifacts: str | None = None
    experiment: str = "forecaster"
    model: str = "forecaster"

    def __post_init__(self) -> None:
        for name in ("uri", "experiment", "model"):
            require(bool(getattr(self, name)), f"tracking.{name}", getattr(self, name), "a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """How the server listens, stores and limits.

    Args:
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        address_file: write `host:port` there once the server answers.
        state: where journal and snapshots are kept, a sqlite:/// URL or a folder.
        alias: the registered version to serve.
        durability: commit (survives a power cut), interval (may lose the last moments on a power cut), none.
        max_batch_observations: most observations in one micro-batch.
        max_queued_observations: refuse more than this many waiting observations.
        max_request_observations: refuse larger requests.
        max_series: refuse new series past this many.
        max_ahead_seconds: refuse observations of a time further in the future, which is a mistake.
        drain_seconds: time for requests under way at shutdown.
        balancer_wait_seconds: time between NOT_SERVING and refusing requests at shutdown.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    address_file: str | None = None
    state: str = "forecaster-state"
    alias: str = "champion"
    durability: DurabilityName = "commit"
    max_batch_observations: int = 65_536
    max_queued_observations: int = 262_144
    max_request_observations: int = 65_536
    max_series: int = 1_000_000
    max_ahead_seconds: float = 86_400.0
    drain_seconds: float = 10.0
    balancer_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65_535, "serving.port", self.port, "0 to 65535")
        choices = get_args(DurabilityName)
        require(self.durability in choices, "serving.durability", self.durability, ", ".join(choices))
        limits = ("max_batch_observations", "max_queued_observations", "max_request_observations", "max_series")
        for name in limits:
            require(getattr(self, name) >= 1, f"serving.{name}", getattr(self, name), "1 or more")
        for name in ("drain_seconds", "balancer_wait_seconds", "max_ahead_seconds"):
            require(getattr(self, name) >= 0, f"serving.{name}", getattr(self, name), "0 or more seconds")
        most = self.max_queued_observations
        ok = self.max_request_observations <= most
        require(ok, "serving.max_request_observations", self.max_request_observations, f"at most {most}, the queue's")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it: one YAML file."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain dicts, lists and scalars, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result
