"""What options have to do with each other, across the sections of a configuration.

Two kinds of rules: an option that another one has no use for, which would be left out in silence, and options that
contradict each other. Each is refused by a sentence that says what to do. What one section knows by itself is checked
there.

Knows the options; knows nothing of what they are good for.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from forecaster.config.checks import require
from forecaster.config.frequency import default_season_lengths
from forecaster.errors import ConfigError, FieldViolation

_LOWER, _UPPER = 0.1, 0.9  # the levels of the interval that promotion, live coverage and drift look at


@dataclass(frozen=True, slots=True)
class Conditional:
    """An option that means something only beside another.

    Args:
        name: of the option, with its section.
        is_used: whether a configuration, or its sections, have a use for it.
        beside: what it needs, in words.
    """

    name: str
    is_used: Callable[[Any], bool]
    beside: str


def _recurrent(config: Any) -> bool:
    return bool(config.model.decoder == "recurrent")


def _scheduled(config: Any) -> bool:
    return _recurrent(config) and config.training.feeding == "scheduled"


_RECURRENT, _SCHEDULED = "model.decoder=recurrent", "model.decoder=recurrent and training.feeding=scheduled"
CONDITIONALS = (
    Conditional("training.feeding", _recurrent, _RECURRENT),
    Conditional("training.feeding_share", _scheduled, _SCHEDULED),
    Conditional("training.feeding_schedule", _scheduled, _SCHEDULED),
    Conditional("model.context", _recurrent, _RECURRENT),
    Conditional("model.sample_paths", _recurrent, _RECURRENT),
    Conditional("model.num_bins", lambda config: config.model.head == "categorical", "model.head=categorical"),
    Conditional(
        "model.attention_steps",
        lambda config: config.model.attention != "none",
        "model.attention=additive or dot",
    ),
    Conditional(
        "model.bidirectional",
        lambda config: config.model.calendar or bool(config.data.future_covariates),
        "something known ahead: model.calendar=true or data.future_covariates",
    ),
    Conditional("data.end_column", lambda config: config.model.end_of_sequence, "model.end_of_sequence=true"),
    Conditional("schedule.time_zone", lambda config: config.schedule.cron is not None, "schedule.cron"),
    Conditional("schedule.drift", lambda config: config.schedule.metrics_url is not None, "schedule.metrics_url"),
    Conditional(
        "serving.lease_wait_seconds",
        lambda config: config.serving.state.startswith("postgres"),
        "serving.state=postgresql://…",
    ),
)


def unused(config: Any) -> Iterator[Conditional]:
    """Yield the options that are not as usual, and that nothing of a configuration has a use for."""
    for rule in CONDITIONALS:
        section, _, option = rule.name.partition(".")
        values = getattr(config, section)
        given = getattr(values, option)
        if given not in (False, usual(type(values), option)) and not rule.is_used(config):
            yield rule


def usual(section: type, option: str) -> Any:
    """Return what an option of a section is if nobody sets it."""
    return next(field.default for field in dataclasses.fields(section) if field.name == option)


def require_consistent(config: Any) -> None:
    """Raise ConfigError for the first rule that a configuration breaks."""
    for rule in unused(config):
        section, _, option = rule.name.partition(".")
        given = getattr(getattr(config, section), option)
        text = f"{rule.name}={given!r} has no use without {rule.beside}: set that too, or leave {rule.name} out"
        raise ConfigError(text, [FieldViolation(rule.name, text)])
    _require_learnable(config)
    _require_kept(config)
    folds, steps = config.backtest.folds, config.backtest.steps
    require(steps is None or folds <= steps, "backtest.folds", folds, f"at most backtest.steps, {steps}")


def _require_learnable(config: Any) -> None:
    model, data, training = config.model, config.data, config.training
    ok = not model.end_of_sequence or data.end_column is not None
    require(ok, "model.end_of_sequence", model.end_of_sequence, "it together with data.end_column")
    levels = model.quantile_levels
    advice = f"levels from {_LOWER} or less to {_UPPER} or more: 80 % intervals decide what is promoted"
    require(levels[0] <= _LOWER and levels[-1] >= _UPPER, "model.quantile_levels", levels, advice)
    patience, epochs = training.patience, training.max_epochs
    advice = f"at most training.max_epochs, {epochs}, or 0 to never stop early"
    require(patience is None or patience <= epochs, "training.patience", patience, advice)
    seasons = model.season_lengths if model.season_lengths is not None else default_season_lengths(data.step_us)
    if seasons:
        advice = f"{min(seasons)} or more, the shortest of the seasons {tuple(seasons)}"
        require(model.timescale is None or model.timescale >= min(seasons), "model.timescale", model.timescale, advice)
        require(data.max_gap_steps >= min(seasons), "data.max_gap_steps", data.max_gap_steps, advice)


def _require_kept(config: Any) -> None:
    serving = config.serving
    ok = not (serving.durability == "none" and serving.history)
    require(ok, "serving.history", serving.history, "false with serving.durability=none, which keeps nothing")
    ok = serving.history is not False or serving.journal_seconds > 0 or serving.durability == "none"
    advice = "more than 0 with serving.history=false: observations would be forgotten as soon as they are snapshotted"
    require(ok, "serving.journal_seconds", serving.journal_seconds, advice)
