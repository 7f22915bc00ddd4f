"""All steps from data to champion, once for the same data and configuration.

Every attempt is a run of its own, tagged with what asked for it and with a key of data and configuration. An attempt
that was killed is taken up by the next: each step finds by the key what was done already.

Knows the order of the steps; knows nothing of how any of them works.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from forecaster.config import Config, to_dict
from forecaster.data.manifest import MANIFEST, manifest_at
from forecaster.errors import ForecasterError
from forecaster.imports import without_collections
from forecaster.interrupts import interruptible
from forecaster.registry import registry
from forecaster.registry.aliases import ROLLED_BACK_AT
from pipelines.context import Context
from pipelines.ingest.step import ingest
from pipelines.lease import held
from pipelines.training.dataset import read_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

Outcome = Literal["nothing new", "promoted", "refused"]
_MAKING = ("data", "model", "training", "trainer", "ingest", "backtest", "promotion", "tuning")  # sections
_WHERE_ONLY = {  # options that say where things lie, not what comes out
    "data": ("path",),
    "training": ("checkpoint_dir", "resume", "threads"),
    "ingest": ("sources", "sql_url", "sql_query", "state", "output", "partition"),
    "tuning": ("storage",),
}
_MOST_INTERRUPTIONS = 5  # of one piece of work


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainResult:
    """What a retraining came to.

    Args:
        outcome: nothing new if the same data and configuration were through before.
        run_id: of the attempt, or of the one before that did the work.
        said: a line for people.
    """

    outcome: Outcome
    run_id: str
    said: str

    def line(self) -> str:
        """Return the outcome as a line for people."""
        return self.said


def retrain(config: Config, *, trigger: str = "manual", stream: TextIO | None = None) -> RetrainResult:
    """Bring in what is new, train a challenger on it, and let it become the champion if it is better.

    Args:
        config: all of it; `serving` is not used.
        trigger: what asked for it.
        stream: for lines for people; left out, standard error.

    Raises:
        UnavailableError: another process retrains, or a store cannot be used.
        DataError: the data cannot be used, or does not suffice.
        ConfigError: see the steps.
    """
    stream = stream or sys.stderr
    with interruptible() as check_signal, held(config) as lease:

        def check() -> None:
            check_signal()
            lease.check()  # somebody else may have taken over from a process that was paused

        client = registry.connect(config.tracking)
        _end_killed(client, config)
        key = _interrupted_key(client, config)
        if key is not None:
            stream.write("goes on with a retraining that was interrupted; what is new comes with the next one\n")
        else:
            key = retrain_key(config, _ingest(client, config, trigger, stream))
        attempts = _attempts(client, config, key)
        done = next((attempt for attempt in attempts if attempt.info.status == "FINISHED"), None)
        if done is not None:
            before = done.data.tags.get("outcome", "")
            said = f"nothing new: this data, with this configuration, was through before; {before}"
            return RetrainResult(outcome="nothing new", run_id=done.info.run_id, said=said)
        return _attempt(
            client, config, Context(trigger=trigger, key=key, stream=stream), number=len(attempts) + 1, check=check
        )


def _ingest(client: "MlflowClient", config: Config, trigger: str, stream: TextIO) -> str:
    """Bring in what is new and return the hash of the content; a failure leaves a run, as that of any step does."""
    try:
        new = ingest(config, stream)
    except ForecasterError:
        from forecaster.training.run.tracking import track

        with track(config, trigger=trigger, name=f"retrain ({trigger})", tags=_tags(config, Context(trigger=trigger))):
            raise
    stream.write(f"ingest: {new.line()}\n")
    return new.manifest.content_hash


def _interrupted_key(client: "MlflowClient", config: Config) -> str | None:
    """Return the key of the data set as it is, if a retraining of it was interrupted.

    With data that never stops coming, the next key would else be another one, and nothing would ever be finished. What
    is interrupted again and again is given up in favour of what is new.
    """
    if manifest_at(config.ingest.output) is None:
        return None
    key = retrain_key(config, read_manifest(config).content_hash)
    ended = [attempt.info.status for attempt in _attempts(client, config, key)]
    return key if 0 < ended.count("KILLED") == len(ended) < _MOST_INTERRUPTIONS else None


def retrain_key(config: Config, content_hash: str) -> str:
    """Return what stands for data and configuration: the same key, the same work."""
    plain = {name: dict(to_dict(config)[name]) for name in _MAKING}
    for section, names in _WHERE_ONLY.items():
        for name in names:
            plain[section].pop(name)
    plain |= {"tracking": {"model": config.tracking.model}}
    text = json.dumps([content_hash, plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _attempt(
    client: "MlflowClient", config: Config, context: Context, number: int, check: Callable[[], None]
) -> RetrainResult:
    with without_collections():  # Lightning and torch take seconds: a run with nothing new needs neither
        from forecaster.training.run.tracking import track
        from pipelines.backtest.step import backtest
        from pipelines.promotion.step import promote
        from pipelines.training.step import train
        from pipelines.tuning.step import tune

    folder, stream = pathlib.Path(config.ingest.output), context.stream
    tags = {**_tags(config, context), "attempt_number": str(number)}
    with track(config, trigger=context.trigger, name=f"retrain ({context.trigger})", tags=tags) as run:
        run.log_config(config)
        run.log_text((folder / MANIFEST).read_text(), MANIFEST)
        context = dataclasses.replace(context, parent_run_id=run.run_id)
        tuned = tune(config, context).config if config.tuning.trials else config
        check()
        trained = train(tuned, context=context)
        assert trained is not None, "a retraining is one process, which starts those that train with it"
        stream.write(f"train: {trained.line()}\n")
        if ROLLED_BACK_AT in trained.model.tags:  # after an attempt that was interrupted behind its promotion
            version = f"{trained.model.name} version {trained.model.version}"
            said = f"{version} was rolled back at {trained.model.tags[ROLLED_BACK_AT]}, and is not put back"
            return _ended(client, run.run_id, context, "refused", said, f"**Refused.** {said}")
        check()
        scored = backtest(config, context)
        stream.write(f"{scored.table()}\n")
        check()
        decision = promote(config, context)
        run.log_metrics(decision.metrics())
        outcome: Outcome = "promoted" if decision.promoted else "refused"
        return _ended(client, run.run_id, context, outcome, decision.line(), decision.markdown())


def _ended(
    client: "MlflowClient", run_id: str, context: Context, outcome: Outcome, said: str, note: str
) -> RetrainResult:
    """Say on an attempt's page what it came to."""
    client.set_tag(run_id, "mlflow.note.content", note)
    client.set_tag(run_id, "outcome", said)
    client.update_run(run_id, name=f"retrain ({context.trigger}): {outcome}")
    return RetrainResult(outcome=outcome, run_id=run_id, said=said)


def _tags(config: Config, context: Context) -> dict[str, str]:
    """Return the tags of an attempt: whose it is, and of what."""
    folder = str(pathlib.Path(config.ingest.output).resolve())
    return {**context.tags("retrain"), "dataset": folder, "registered_model": config.tracking.model}


def _attempts(client: "MlflowClient", config: Config, key: str) -> list["MlflowRun"]:
    return _search(client, config, f"tags.step = 'retrain' and tags.retrain_key = '{key}'")


def _end_killed(client: "MlflowClient", config: Config) -> None:
    """End the runs of attempts whose process ended without a word: nobody else retrains while the lease is held."""
    running, mine = "attributes.status = 'RUNNING'", _tags(config, Context())
    for attempt in _search(client, config, f"tags.step = 'retrain' and {running}"):
        # Names and folders may hold quotes, which MLflow's filters cannot.
        if any(attempt.data.tags.get(name) != mine[name] for name in ("dataset", "registered_model")):
            continue
        children = _search(client, config, f"tags.mlflow.parentRunId = '{attempt.info.run_id}' and {running}")
        for run in (*children, attempt):
            client.set_tag(run.info.run_id, "error", "its process ended without a word")
            client.set_terminated(run.info.run_id, "KILLED")


def _search(client: "MlflowClient", config: Config, which: str) -> list["MlflowRun"]:
    experiment = registry.experiment_id(client, config.tracking)
    found: list[Any] = client.search_runs([experiment], which, order_by=["attributes.start_time DESC"])
    return found
