"""A search on MLflow's dashboard: a parent run with the history, what matters, the table of trials, and the best.

Several processes that share a study share the run too; what is logged twice is the same.

Knows MLflow's client and Optuna's trials; knows nothing of training.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from forecaster.config import Config, to_dict
from forecaster.registry import registry
from forecaster.registry.store_uri import without_passwords
from pipelines.context import Context
from pipelines.tuning.figures import history_chart, importance_chart
from pipelines.tuning.study import REASON, RUN, STATES

if TYPE_CHECKING:
    from mlflow.entities import Run

TABLE, BEST = "trials.json", "best.yaml"
_STEP = "tune"
_LOGGED = "mlflow.loggedArtifacts"  # the tag by which MLflow's dashboard knows tables


class TuningRun:
    """The parent run of a study.

    Args:
        config: names the store and the experiment, and is the base of the search.
        context: why it runs.
        study: the study's name; with the context's key, that of the run.
    """

    def __init__(self, config: Config, context: Context, study: str) -> None:
        self._config, self._context, self._study = config, context, study
        self._client = registry.connect(config.tracking)
        self._experiment = registry.experiment_id(self._client, config.tracking)
        with registry.store_errors(config.tracking):
            self.run_id: str = (self._first() or self._make()).info.run_id

    @property
    def is_finished(self) -> bool:
        """Whether everything of it is logged."""
        return bool(self._client.get_run(self.run_id).info.status == "FINISHED")

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Show that it is under way, on the page of the retraining that goes on with it; or why it ended early."""
        self._client.update_run(self.run_id, status="RUNNING")
        for name, value in self._context.tags(_STEP).items():
            self._client.set_tag(self.run_id, name, value)
        try:
            yield
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            self._client.set_tag(self.run_id, "error", f"{type(error).__name__}: {error}"[:500])
            self._client.set_terminated(self.run_id, "KILLED" if interrupted else "FAILED")
            raise

    def tags_of_trial(self, number: int) -> dict[str, str]:
        """Return the tags of a trial's run, which is nested in this one."""
        tags = self._context.tags("trial") | {"mlflow.parentRunId": self.run_id}
        return tags | {"study": self._study, "trial": str(number)}

    def left_behind(self, trial: FrozenTrial) -> None:
        """End the run of a trial whose process is gone."""
        if (run_id := trial.user_attrs.get(RUN)) is not None:
            self._client.set_tag(run_id, "state", "left behind")
            self._client.set_tag(run_id, "mlflow.note.content", "Its process is gone; the trial is repeated.")
            self._client.set_terminated(run_id, "KILLED")

    def trial_ended(self, number: int, run_id: str, state: str, note: str, value: float | None) -> None:
        """Say what a trial came to, and add it to the curve.

        Args:
            number: of the trial.
            run_id: of its run.
            state: complete, cut short or failed.
            note: a line for people.
            value: its validation MASE if it is complete.
        """
        self._client.set_tag(run_id, "state", state)
        self._client.set_tag(run_id, "mlflow.note.content", note)
        if state == "failed":
            self._client.set_terminated(run_id, "FAILED")
        if value is not None:
            self._client.log_metric(self.run_id, "trial_mase", value, step=number)

    def finish(self, study: optuna.Study, counted: Sequence[FrozenTrial], best: Config, summary: str) -> None:
        """Log the search as a whole, and end the run; done again, it replaces what was there."""
        self._client.log_text(self.run_id, yaml.safe_dump(without_passwords(to_dict(best)), sort_keys=False), BEST)
        self._log_table(_table(counted))
        self._client.log_figure(self.run_id, history_chart(counted), "figures/history.png")
        if importances := _importances(study):
            self._client.log_figure(self.run_id, importance_chart(importances), "figures/importances.png")
        self._client.log_metric(self.run_id, "best_mase", study.best_value)
        counts = Counter(STATES[trial.state] for trial in counted)
        for state in STATES.values():
            self._client.log_metric(self.run_id, f"trials_{state.replace(' ', '_')}", counts[state])
        self._client.set_tag(self.run_id, "mlflow.note.content", summary)
        self._client.set_terminated(self.run_id, "FINISHED")

    def _log_table(self, columns: Mapping[str, list[Any]]) -> None:
        """Log a table that the dashboard shows, in place of the one before; MLflow's own call would append to that."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._client.log_text(self.run_id, json.dumps({"columns": list(columns), "data": rows}), TABLE)
        self._client.set_tag(self.run_id, _LOGGED, json.dumps([{"path": TABLE, "type": "table"}]))

    def _make(self) -> "Run":
        from mlflow.tracking.context.registry import resolve_tags  # who runs what

        tags = resolve_tags(self._context.tags(_STEP) | {"study": self._study})
        made = self._client.create_run(self._experiment, run_name=f"tune {self._study}", tags=tags)
        plain = without_passwords({"tuning": to_dict(self._config.tuning)})["tuning"]
        self._client.log_param(made.info.run_id, "tuning.study", plain["study"])
        self._client.log_text(made.info.run_id, yaml.safe_dump(plain["space"], sort_keys=False), "space.yaml")
        first = self._first()  # another process may have made one at the same moment: all take the same
        if first is not None and first.info.run_id != made.info.run_id:
            self._client.delete_run(made.info.run_id)
            return first
        return made

    def _first(self) -> "Run | None":
        asked = " and ".join(filter(None, (f"tags.step = '{_STEP}'", registry.named("tags.study", self._study))))
        found = self._client.search_runs([self._experiment], asked, order_by=["attributes.start_time ASC"])
        mine = {"study": self._study, "retrain_key": self._context.key}
        same = [run for run in found if all(run.data.tags.get(name) == value for name, value in mine.items())]
        return min(same, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _table(trials: Sequence[FrozenTrial]) -> dict[str, list[Any]]:
    """Return the trials as columns, the best first, failed ones last."""
    ranked = sorted(trials, key=lambda one: (one.state is not TrialState.COMPLETE, _error(one), one.number))
    options = sorted({name for trial in trials for name in trial.params})
    columns: dict[str, list[Any]] = {
        "trial": [candidate.number for candidate in ranked],
        "state": [STATES[candidate.state] for candidate in ranked],
        "val_mase": [
            round(candidate.value, 5) if math.isfinite(_error(candidate)) and candidate.value is not None else None
            for candidate in ranked
        ],
    }
    columns |= {name: [candidate.params.get(name) for candidate in ranked] for name in options}
    columns["epochs"] = [len(candidate.intermediate_values) for candidate in ranked]
    columns["seconds"] = [
        round(candidate.duration.total_seconds(), 1) if candidate.duration else None for candidate in ranked
    ]
    return columns | {"reason": [candidate.user_attrs.get(REASON, "") for candidate in ranked]}


def _error(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else math.inf


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return each option's share of the importance, empty if there are too few trials to say."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)
