"""The step `tune`: search for a better configuration, on the data before the backtest's window.

A trial is a training with other options, and its value the validation MASE. The same space around the same
configuration on the same data is the same study: several processes may work on it, and one that was killed goes on.

Knows the order of things; how trials are shared is `tuning.study`'s, what they vary `tuning.space`'s.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from forecaster.config import Config, require, to_dict
from forecaster.data.windows import Series
from forecaster.errors import ConfigError
from forecaster.imports import without_collections
from forecaster.interrupts import interruptible
from pipelines.context import Context
from pipelines.training.dataset import ingested
from pipelines.tuning.space import SearchSpace
from pipelines.window import window_start

if TYPE_CHECKING:
    import optuna
    import polars as pl

    from pipelines.tuning.run import TuningRun
    from pipelines.tuning.study import Trials

# What a trial's training does not depend on, so that it is the same study without.
_WITHOUT = {"data": ("path",), "training": ("checkpoint_dir", "resume", "threads", "device", "start_from")}
_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What a search has found.

    Args:
        run_id: MLflow's, of the parent run.
        study: the study's name.
        counts: how many trials came to what.
        best: the number of the best trial.
        val_mase: its value.
        options: its options, by dotted name.
        config: the configuration with them.
        path: of the file that holds them.
    """

    run_id: str
    study: str
    counts: dict[str, int]
    best: int
    val_mase: float
    options: dict[str, Any]
    config: Config
    path: pathlib.Path

    def line(self) -> str:
        """Return the outcome as a line for people."""
        return f"{self.summary()} (study {self.study}, kept in {self.path})"

    def summary(self) -> str:
        """Return the outcome without where it is kept."""
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        shown = (f"{name}={f'{v:.3g}' if isinstance(v, float) else v}" for name, v in self.options.items())
        return (
            f"{sum(self.counts.values())} trials ({counts}), the best is trial {self.best}: validation MASE"
            f" {self.val_mase:.3f} with {', '.join(shown)}"
        )


def tune(config: Config, context: Context) -> TuneResult:
    """Search until the study has `tuning.trials` trials, or wait until other processes have done the last ones.

    Args:
        config: what is searched around; `tuning` says what varies, and for how long.
        context: why it runs.

    Raises:
        ConfigError: the space is wrong, or no trial could be completed.
        DataError: there is no data set, or it does not suffice.
        UnavailableError: the study's storage or the tracking store cannot be used.
    """
    tuning = config.tuning
    require(tuning.trials >= 1, "tuning.trials", tuning.trials, "1 or more")
    require(config.training.holdout, "training.holdout", False, "true, since trials are judged by what is held out")
    space = SearchSpace(config)
    data, frame, series = _before_the_window(config, context)
    with without_collections():  # Optuna, Lightning and torch take seconds: what is wrong is said before
        from pipelines.tuning.run import TuningRun
        from pipelines.tuning.search import Search
        from pipelines.tuning.storage import open_study
        from pipelines.tuning.study import Trials

    name, storage = _study_name(config, series), tuning.storage or str(_beside(config, "-tuning.journal"))
    with open_study(storage, name, startup=tuning.startup_trials) as study:
        _enqueue_known(study, space, config)
        run = TuningRun(data, context, name)
        trials = Trials(
            study,
            total=tuning.trials,
            startup=tuning.startup_trials,
            seed=config.training.seed,
            on_left_behind=run.left_behind,
        )
        if len(trials.counted()) < tuning.trials or not run.is_finished:
            with interruptible(), run.under_way():
                Search(data, context, space, frame, series, run, trials).run_all()
                result = _result(config, space, run, trials)
                run.finish(study, trials.counted(), result.config, result.summary())
        result = _result(config, space, run, trials)
        _keep(result)
        return result


def _before_the_window(config: Config, context: Context) -> tuple[Config, "pl.DataFrame", list[Series]]:
    """Return the configuration with the ingested data, and what of that a challenger is trained on."""
    from forecaster.training.run.job import read_series

    data = ingested(config)
    until = functools.partial(window_start, config)
    frame, series = read_series(data.data, until=until, stream=context.stream)
    return data, frame, series


def _study_name(config: Config, series: Sequence[Series]) -> str:
    """Return the name under which trials can be compared: of the same space, configuration and data."""
    from forecaster.training.split import digest_of

    plain = {name: to_dict(getattr(config, name)) for name in ("data", "model", "training")}
    for section, names in _WITHOUT.items():
        for name in names:
            plain[section].pop(name)
    about = json.dumps([plain, config.tuning.space], sort_keys=True, default=str)
    return f"{config.tuning.study}-{hashlib.sha256(digest_of(series, about).encode()).hexdigest()[:_DIGITS]}"


def _enqueue_known(study: "optuna.Study", space: SearchSpace, config: Config) -> None:
    """Begin a study with the configuration as it is, and with the best of the study before it."""
    if study.get_trials(deepcopy=False):
        return
    known = [config]
    path = _beside(config, "-tuning.yaml")
    if path.is_file():
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        values = {f"{section}.{name}": value for section, given in sections.items() for name, value in given.items()}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in space.options}
        with contextlib.suppress(ConfigError):  # the configuration around it may have changed
            known.append(space.config(values))
    for one in known:
        if (params := space.params_of(one)) is not None:
            study.enqueue_trial(params, skip_if_exists=True)


def _result(config: Config, space: SearchSpace, run: "TuningRun", trials: "Trials") -> TuneResult:
    """Return the best of a study whose trials are done; raises ConfigError if none is complete."""
    from pipelines.tuning.study import REASON, STATES

    counted = trials.counted()
    try:
        best = trials.study.best_trial
    except ValueError as error:
        reasons = [one.user_attrs[REASON] for one in counted if REASON in one.user_attrs]
        last = f", the last one because {reasons[-1]}" if reasons else ""
        raise ConfigError(f"none of {len(counted)} trials could be completed{last}: change tuning.space") from error
    states = Counter(STATES[one.state] for one in counted)
    options = space.values(best.params)
    return TuneResult(
        run_id=run.run_id,
        study=trials.study.study_name,
        counts={state: states[state] for state in STATES.values()},
        best=best.number,
        val_mase=trials.study.best_value,
        options=options,
        config=space.config(options),
        path=_beside(config, "-tuning.yaml"),
    )


def _keep(result: TuneResult) -> None:
    """Write the best options where the next training finds them, as a file that `--config` reads."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in result.options.items():
        section, _, option = name.partition(".")
        sections.setdefault(section, {})[option] = list(value) if isinstance(value, tuple) else value
    text = f"# {result.summary()}\n# study {result.study}\n{yaml.safe_dump(sections, sort_keys=False)}"
    new = result.path.with_name(f"{result.path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(result.path)


def _beside(config: Config, ending: str) -> pathlib.Path:
    """Return a path beside the data set."""
    folder = pathlib.Path(config.ingest.output).expanduser()
    return folder.with_name(f"{folder.name}{ending}")
