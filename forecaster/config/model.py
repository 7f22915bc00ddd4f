"""The architecture."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from forecaster.config.checks import require, require_types
from forecaster.config.frequency import MAX_SEASON, default_season_lengths

Cell = Literal["gru", "lstm", "rnn_tanh", "rnn_relu", "output"]
Decoder = Literal["direct", "recurrent"]
Context = Literal["initial", "input", "both"]
Attention = Literal["none", "additive", "dot"]
Head = Literal["quantiles", "gaussian", "student_t", "negative_binomial", "categorical"]
Initialization = Literal["orthogonal", "xavier", "identity"]
Statistics = Literal["robust", "plain"]

_QUANTILE_LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
_CHOICES = {
    "cell": get_args(Cell),
    "initialization": get_args(Initialization),
    "decoder": get_args(Decoder),
    "context": get_args(Context),
    "attention": get_args(Attention),
    "statistics": get_args(Statistics),
}
_RANGES = {
    "hidden_size": (1, 4096),
    "num_layers": (1, 16),
    "decoder_size": (1, 4096),
    "horizon": (1, 10_000),
    "attention_steps": (1, 4096),
    "num_bins": (2, 4096),
    "sample_paths": (2, 10_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture of the forecaster.

    Args:
        cell: the recurrent cell: gated (gru, lstm), plain (rnn_tanh, rnn_relu), or one whose only memory is its
            previous output (output).
        initialization: of the recurrent weights: orthogonal keeps norms through time; identity (nearly), with rnn_relu,
            keeps states (Le et al. 2015); xavier is what feed-forward weights get.
        hidden_size: units of each layer.
        num_layers: stacked layers, joined by residual connections.
        decoder_size: units of the decoder's hidden layer.
        horizon: the longest horizon, in steps.
        season_lengths: in steps, ascending; left out, they follow from the frequency (hourly: 24, 168).
        timescale: over how many steps the running level and scale forget; left out, the longest season.
        statistics: robust (a value far from all that was expected counts as missing, unless more such follow) or plain
            (every value counts).
        quantile_levels: the probabilities to learn, ascending, symmetric or not, with 0.5 among them.
        min_history: observed steps that a series needs before it is forecast; left out, one short season.
        dropout: probability of dropping an encoder output during training.
        calendar: use the hour of the day, the day of the week and the time of the year; of no use where times are
            made up.
        deep_input: a perceptron between a layer's input and its cell.
        deep_transition: a gated perceptron between a layer's hidden vectors, from step to step.
        deep_output: a perceptron between a layer's hidden vector and its output.
        layer_periods: the steps between two updates of each layer, such as [1, 24]; left out, each layer every step.
        attention: over the encoder's last outputs: none, additive (Bahdanau et al. 2015) or dot (scaled dot product).
        attention_steps: how many outputs are kept in a series' state for it.
        decoder: direct (all steps at once) or recurrent (each step from the one before it, by sampled paths).
        context: how a recurrent decoder gets the encoder's summary: as its initial state, as an input at every step,
            or both.
        bidirectional: read what is known of the future (calendar, known-future covariates) in both directions.
        head: the distribution of a step: quantiles, gaussian, student_t, negative_binomial (counts) or categorical
            (bins); left out, negative_binomial for small counts, quantiles otherwise.
        num_bins: of a categorical head; of an odd number one lies around the level.
        sample_paths: sampled paths that the quantiles of a recurrent decoder are made of.
        end_of_sequence: learn the probability that a series ends, and let forecasts stop there; needs
            data.end_column.
    """

    cell: Cell = "gru"
    initialization: Initialization = "orthogonal"
    hidden_size: int = 64
    num_layers: int = 2
    decoder_size: int = 64
    horizon: int = 24
    season_lengths: tuple[int, ...] | None = None
    timescale: int | None = None
    statistics: Statistics = "robust"
    quantile_levels: tuple[float, ...] = _QUANTILE_LEVELS
    min_history: int | None = None
    dropout: float = 0.1
    calendar: bool = True
    deep_input: bool = False
    deep_transition: bool = False
    deep_output: bool = False
    layer_periods: tuple[int, ...] | None = None
    attention: Attention = "none"
    attention_steps: int = 48
    decoder: Decoder = "direct"
    context: Context = "both"
    bidirectional: bool = False
    head: Head | None = None
    num_bins: int = 65
    sample_paths: int = 100
    end_of_sequence: bool = False

    def __post_init__(self) -> None:
        require_types(self, "model")
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, f"model.{name}", getattr(self, name), " or ".join(choices))
        require(self.head is None or self.head in get_args(Head), "model.head", self.head, " or ".join(get_args(Head)))
        for name, (low, high) in _RANGES.items():
            require(low <= getattr(self, name) <= high, f"model.{name}", getattr(self, name), f"{low} to {high}")
        if self.layer_periods is not None:
            ok = len(self.layer_periods) == self.num_layers and all(1 <= d <= 10_000 for d in self.layer_periods)
            require(ok, "model.layer_periods", self.layer_periods, f"one period for each of {self.num_layers} layers")
        if self.season_lengths is not None:
            seasons = tuple(self.season_lengths)
            ok = all(2 <= m <= MAX_SEASON for m in seasons) and sorted(set(seasons)) == list(seasons)
            require(ok, "model.season_lengths", seasons, f"ascending whole numbers from 2 to {MAX_SEASON}, or []")
        if self.timescale is not None:
            require(self.timescale >= 2, "model.timescale", self.timescale, "2 or more steps")
        if self.min_history is not None:
            ok = 1 <= self.min_history <= MAX_SEASON
            require(ok, "model.min_history", self.min_history, f"1 to {MAX_SEASON} steps")
        levels = self.quantile_levels
        ok = all(0 < p < 1 for p in levels) and sorted(set(levels)) == list(levels) and 0.5 in levels
        require(ok, "model.quantile_levels", levels, "ascending probabilities between 0 and 1, with 0.5 among them")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 or more and below 1")
        if self.cell == "output":
            self._require_no_hidden_recurrence()

    def _require_no_hidden_recurrence(self) -> None:
        """Refuse what a cell that carries no hidden vector has no use for, rather than leave it out in silence."""
        for name in ("deep_input", "deep_transition", "deep_output"):
            require(not getattr(self, name), f"model.{name}", True, "false with model.cell=output, or another cell")
        slow = self.layer_periods is not None and max(self.layer_periods) > 1
        require(not slow, "model.layer_periods", self.layer_periods, "none with model.cell=output, or another cell")
        forgotten = self.decoder == "recurrent" and self.context == "initial"
        require(not forgotten, "model.context", self.context, "input or both with model.cell=output, or another cell")

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
            head=self.head or "quantiles",
        )
