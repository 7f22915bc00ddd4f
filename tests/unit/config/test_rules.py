"""Options that contradict each other, or that another has no use for, are refused: a sentence says what to do."""

import dataclasses
from collections.abc import Callable

import pytest
import yaml

from forecaster.arguments import _SECTIONS
from forecaster.cli import main
from forecaster.config import (
    BacktestConfig,
    Config,
    DataConfig,
    ModelConfig,
    PromotionConfig,
    ScheduleConfig,
    ServingConfig,
    TrackingConfig,
    TrainerConfig,
    TrainingConfig,
    to_dict,
)
from forecaster.config.rules import CONDITIONALS, unused, usual
from forecaster.errors import ConfigError
from pipelines.__main__ import main as step

# What is refused, the option that the sentence names, and what the sentence says to do about it.
REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "feeding with a direct decoder": (
        lambda: Config(training=TrainingConfig(feeding="free", feeding_share=0.5)),
        "training.feeding",
        "without model.decoder=recurrent: set that too, or leave training.feeding out",
    ),
    "a share with feeding=teacher": (
        lambda: Config(model=ModelConfig(decoder="recurrent"), training=TrainingConfig(feeding_share=0.3)),
        "training.feeding_share",
        "training.feeding=scheduled: set that too",
    ),
    "a share with feeding=free": (
        lambda: Config(
            model=ModelConfig(decoder="recurrent"), training=TrainingConfig(feeding="free", feeding_share=0.3)
        ),
        "training.feeding_share",
        "training.feeding=scheduled: set that too",
    ),
    "a schedule with feeding=teacher": (
        lambda: Config(
            model=ModelConfig(decoder="recurrent"), training=TrainingConfig(feeding_schedule="inverse_sigmoid")
        ),
        "training.feeding_schedule",
        "training.feeding=scheduled: set that too",
    ),
    "a context with a direct decoder": (
        lambda: Config(model=ModelConfig(context="initial")),
        "model.context",
        "model.decoder=recurrent",
    ),
    "sampled paths with a direct decoder": (
        lambda: Config(model=ModelConfig(sample_paths=1000)),
        "model.sample_paths",
        "model.decoder=recurrent",
    ),
    "bins with another head": (
        lambda: Config(model=ModelConfig(head="quantiles", num_bins=9)),
        "model.num_bins",
        "model.head=categorical",
    ),
    "bins with no head named": (lambda: Config(model=ModelConfig(num_bins=9)), "model.num_bins", "categorical"),
    "steps without attention": (
        lambda: Config(model=ModelConfig(attention_steps=512)),
        "model.attention_steps",
        "model.attention=additive or dot",
    ),
    "both directions of nothing": (
        lambda: Config(model=ModelConfig(bidirectional=True, calendar=False)),
        "model.bidirectional",
        "model.calendar=true or data.future_covariates",
    ),
    "ends that are not learnt": (
        lambda: Config(data=DataConfig(end_column="over")),
        "data.end_column",
        "model.end_of_sequence=true",
    ),
    "ends that are not known": (
        lambda: Config(model=ModelConfig(end_of_sequence=True)),
        "model.end_of_sequence",
        "together with data.end_column",
    ),
    "observations that are forgotten at once": (
        lambda: Config(serving=ServingConfig(history=False, journal_seconds=0)),
        "serving.journal_seconds",
        "use more than 0 with serving.history=false",
    ),
    "a history of what is not kept": (
        lambda: Config(serving=ServingConfig(durability="none", history=True)),
        "serving.history",
        "use false with serving.durability=none",
    ),
    "a wait for a lease that a folder has not": (
        lambda: Config(serving=ServingConfig(lease_wait_seconds=5.0)),
        "serving.lease_wait_seconds",
        "serving.state=postgresql://…",
    ),
    "drift of nothing": (
        lambda: Config(schedule=ScheduleConfig(every="1h", drift=True)),
        "schedule.drift",
        "schedule.metrics_url",
    ),
    "new observations of nothing": (
        lambda: ScheduleConfig(new_observations=5),
        "schedule.new_observations",
        "together with schedule.metrics_url",
    ),
    "an unknown time zone": (
        lambda: Config(schedule=ScheduleConfig(every="1h", time_zone="Mars/Olympus")),
        "schedule.time_zone",
        "use one such as Europe/Berlin",
    ),
    "a time zone without fields": (
        lambda: Config(schedule=ScheduleConfig(every="1h", time_zone="Europe/Berlin")),
        "schedule.time_zone",
        "schedule.cron",
    ),
    "what are no cron fields": (
        lambda: Config(schedule=ScheduleConfig(cron="99 99 * * *")),
        "schedule.cron",
        "five cron fields such as",
    ),
    "a time that never comes": (
        lambda: Config(schedule=ScheduleConfig(cron="0 3 31 2 *")),
        "schedule.cron",
        "no month has such a day",
    ),
    "more patience than epochs": (
        lambda: Config(training=TrainingConfig(max_epochs=3, patience=50)),
        "training.patience",
        "at most training.max_epochs, 3",
    ),
    "a history that no series has": (
        lambda: Config(model=ModelConfig(min_history=10**9)),
        "model.min_history",
        "use 1 to 2048",
    ),
    "statistics that forget within a season": (
        lambda: Config(model=ModelConfig(timescale=2)),
        "model.timescale",
        "use 24 or more, the shortest of the seasons (24, 168)",
    ),
    "no intervals": (
        lambda: Config(model=ModelConfig(quantile_levels=(0.5,))),
        "model.quantile_levels",
        "use levels from 0.1 or less to 0.9 or more",
    ),
    "no 80 % intervals": (
        lambda: Config(model=ModelConfig(quantile_levels=(0.2, 0.5, 0.8))),
        "model.quantile_levels",
        "use levels from 0.1 or less to 0.9 or more",
    ),
    "a name that no registry takes": (
        lambda: Config(tracking=TrackingConfig(model="a/b'\"c")),
        "tracking.model",
        "without slashes, backslashes and colons",
    ),
    "such a name among others": (lambda: ServingConfig(models=("a", "b:c")), "serving.models", "without slashes"),
    "afresh within a season": (
        lambda: Config(data=DataConfig(max_gap_steps=1)),
        "data.max_gap_steps",
        "use 24 or more, the shortest of the seasons",
    ),
    "more folds than steps": (
        lambda: Config(backtest=BacktestConfig(steps=2, folds=3)),
        "backtest.folds",
        "at most backtest.steps, 2",
    ),
    "a truth for a size": (lambda: Config(model=ModelConfig(hidden_size=True)), "model.hidden_size", "a whole number"),
    "half a step": (lambda: Config(model=ModelConfig(horizon=2.5)), "model.horizon", "use a whole number"),  # type: ignore[arg-type]
    "half a season": (lambda: ModelConfig(season_lengths=(2.5,)), "model.season_lengths", "a whole number"),  # type: ignore[arg-type]
    "a number for a truth": (lambda: ModelConfig(calendar=1), "model.calendar", "true or false"),  # type: ignore[arg-type]
    "a truth for a share": (lambda: PromotionConfig(margin=True), "promotion.margin", "a number"),
    "half a process": (lambda: TrainerConfig(devices=1.5), "trainer.devices", "a whole number"),  # type: ignore[arg-type]
    "a number for a name": (lambda: TrackingConfig(model=5), "tracking.model", "text"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_a_sentence_that_says_what_to_do(name: str) -> None:
    make, option, advice = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        make()
    said = str(caught.value)
    assert said.startswith(f"{option}=")
    assert advice in said
    assert "\n" not in said
    assert [one.field for one in caught.value.violations] == [option]


@pytest.mark.parametrize("command", ["train", "serve", "retrain"])
def test_every_command_says_it_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = step if command == "retrain" else main
    assert run([command, "--model.attention_steps=512"]) == 2
    assert capsys.readouterr().err == (
        "error: model.attention_steps=512 has no use without model.attention=additive or dot: set that too, or leave"
        " model.attention_steps out\n"
    )


def test_what_is_as_usual_is_consistent_and_so_is_what_comes_back_from_a_file() -> None:
    config = Config(model=ModelConfig(attention="dot", attention_steps=512), training=TrainingConfig(max_epochs=1))
    read = yaml.safe_load(yaml.safe_dump(to_dict(config)))
    again = Config(**{name: section(**read[name]) for name, section in _SECTIONS.items()})
    assert to_dict(again) == to_dict(config)
    assert list(unused(Config())) == []


@pytest.mark.parametrize("rule", CONDITIONALS, ids=lambda rule: rule.name)
def test_each_rule_is_of_an_option_that_is_there(rule: object) -> None:
    section, _, option = rule.name.partition(".")  # type: ignore[attr-defined]
    values = getattr(Config(), section)
    assert option in {field.name for field in dataclasses.fields(values)}
    assert getattr(values, option) == usual(type(values), option)


def test_what_is_left_out_follows_from_what_is_there() -> None:
    assert ServingConfig().keeps_history
    assert not ServingConfig(durability="none").keeps_history
    assert not ServingConfig(history=False).keeps_history
    assert not ScheduleConfig(every="1h").watches_drift
    assert ScheduleConfig(metrics_url="http://h/metrics").watches_drift
    assert not ScheduleConfig(metrics_url="http://h/metrics", drift=False).watches_drift
