"""The steps `promote` and `rollback`: which version is in production, and why, as everybody can read it afterwards.

The order of what `promote` writes, so that it can be killed anywhere and run again:

    1. the report, then promotion_decision.json, with the backtest's run: from here on the decision is made
    2. tags of the run, tags and description of the challenger
    3. if it is promoted, the aliases, in the order of `forecaster.registry.aliases`

Run again it reads the decision, if that was about the same champion under the same rule, and writes the rest.

Knows the order; knows nothing of how anything is scored or judged.
"""

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from forecaster.config import Config, TrackingConfig, to_dict
from forecaster.data.schema import read_frame
from forecaster.errors import DataError, FailedPreconditionError
from forecaster.registry import aliases, registry
from forecaster.registry.registry import CHALLENGER, CHAMPION, RegisteredModel, store_errors
from forecaster.registry.trial import try_version
from pipelines.context import Context
from pipelines.promotion.decision import Decision
from pipelines.promotion.report import html_report, markdown_report
from pipelines.training.dataset import ingested

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

DECISION, HTML, MARKDOWN = "promotion_decision.json", "promotion_report.html", "promotion_report.md"
_RUN_TAG = "promotion_run"  # of a version: the backtest's run that decided about it
_MARK = "\n\n**Backtest:** "  # what follows in a version's description is ours


@dataclass(frozen=True, slots=True)
class Rollback:
    """Who was replaced by what.

    Args:
        champion: the version before, which is the champion again.
        replaced: the version that was the champion, and is `previous` now.
    """

    champion: RegisteredModel
    replaced: RegisteredModel

    def line(self) -> str:
        """Return it as a line for people."""
        return (
            f"{self.champion.name} version {self.champion.version} is the champion again, in place of version"
            f" {self.replaced.version}, which is `previous` now: the same command undoes it"
        )


def rollback(config: Config) -> Rollback:
    """Put the version before the champion back in its place.

    Raises:
        FailedPreconditionError: there is none.
        ModelNotFoundError: there is no store.
        UnavailableError: the store cannot be used.
    """
    return Rollback(*aliases.rollback(registry.existing(config.tracking), config.tracking))


def promote(config: Config, context: Context, *, dry_run: bool = False) -> Decision:
    """Let the challenger become the champion if its newest backtest says so, and a process of its own can use it.

    Args:
        config: names the store and the rule.
        context: why it runs; with a key only a backtest of that retraining counts.
        dry_run: decide, and write nothing anywhere.

    Raises:
        ModelNotFoundError: there is no challenger.
        FailedPreconditionError: it has no finished backtest, or the champion is another one than in that.
        UnavailableError: the store cannot be used.
    """
    client = registry.existing(config.tracking)
    challenger, champion = (registry.find(client, config.tracking, name) for name in (CHALLENGER, CHAMPION))
    if champion is not None and (challenger is None or challenger.version == champion.version):
        decision = _decided_before(client, config, context, champion, was_ended=challenger is None)
        if challenger is not None and not dry_run:
            aliases.promote(client, config.tracking, champion.version)  # what an attempt before left undone
        return dataclasses.replace(decision, dry_run=dry_run)
    challenger = challenger or aliases.challenger_of(client, config.tracking)
    run = _backtest_of(client, config.tracking, context, challenger, champion)
    decision = _decide(client, config, run, dry_run=dry_run)
    if dry_run:
        return dataclasses.replace(decision, dry_run=True)
    _explain(client, config.tracking, decision, run.info.experiment_id, challenger)
    if decision.promoted:
        aliases.promote(client, config.tracking, challenger.version)
    return decision


def _decided_before(
    client: "MlflowClient", config: Config, context: Context, champion: RegisteredModel, *, was_ended: bool
) -> Decision:
    """Return the decision that made the champion what it is, if that is what was asked for."""
    run_id = champion.tags.get(_RUN_TAG)
    if run_id is not None and (context.key is not None or not was_ended):
        with store_errors(config.tracking):
            key = client.get_run(run_id).data.tags.get("retrain_key")
        if context.key in (None, key):
            return _read_decision(client, config.tracking, run_id)
    if context.key is not None:
        aliases.challenger_of(client, config.tracking)
    return Decision(
        outcome="nothing to do",
        model=champion.name,
        version=champion.version,
        reason="is the champion, and no other version is the challenger",
        time=_now(),
    )


def _backtest_of(
    client: "MlflowClient",
    config: TrackingConfig,
    context: Context,
    challenger: RegisteredModel,
    champion: RegisteredModel | None,
) -> "MlflowRun":
    """Return the newest finished backtest of the challenger against today's champion."""
    from pipelines.backtest.runs import finished_backtest

    tags = {"challenger_version": challenger.version} | ({"retrain_key": context.key} if context.key else {})
    run = finished_backtest(client, config, tags)
    if run is None:
        raise FailedPreconditionError(
            f"{config.model} version {challenger.version}, the challenger, has no finished backtest: run `python -m"
            " pipelines backtest` first, or retrain"
        )
    before, now = run.data.tags.get("champion_version"), champion.version if champion is not None else None
    if before != now:
        told = [f"version {one}" if one is not None else "none" for one in (now, before)]
        raise FailedPreconditionError(
            f"the champion of {config.model} is {told[0]} now, and the backtest was against {told[1]}: run `python -m"
            " pipelines backtest` again"
        )
    return run


def _decide(client: "MlflowClient", config: Config, run: "MlflowRun", *, dry_run: bool) -> Decision:
    """Return the decision on a backtest, made before under the same rule or made now and written down."""
    from pipelines.backtest.runs import read_figures, read_result

    tracking, run_id = config.tracking, run.info.run_id
    with store_errors(tracking):
        files = {file.path for file in client.list_artifacts(run_id)}
    if DECISION in files:
        before = _read_decision(client, tracking, run_id)
        if before.rule == to_dict(config.promotion):
            return before
    result = read_result(client, tracking, run_id)
    decision = Decision.of(result, config.promotion, _now())
    if decision.promoted:
        decision = decision.after(try_version(tracking, decision.version, _rows(config)))
    if not dry_run:
        page = html_report(decision, result, read_figures(client, tracking, run_id))
        with store_errors(tracking):
            client.log_text(run_id, page, HTML)
            client.log_text(run_id, markdown_report(decision, result), MARKDOWN)
            client.log_text(run_id, decision.to_json(), DECISION)
    return decision


def _rows(config: Config) -> pl.DataFrame | None:
    """Return the rows of the data set, which a version is tried on; None if there are none here."""
    try:
        return read_frame(ingested(config).data)
    except DataError:
        return None


def _explain(
    client: "MlflowClient", config: TrackingConfig, decision: Decision, experiment_id: str, challenger: RegisteredModel
) -> None:
    """Say on the pages of the backtest's run and of the challenger what was decided, and why."""
    page = f"#/experiments/{experiment_id}/runs/{decision.run_id}"
    tags = {
        "validation_status": "passed" if decision.promoted else "failed",
        "promotion_reason": decision.reason,
        _RUN_TAG: decision.run_id,
    }
    with store_errors(config):
        client.set_tag(decision.run_id, "verdict", decision.outcome)
        client.set_tag(decision.run_id, "mlflow.note.content", decision.markdown())
        described = client.get_model_version(config.model, challenger.version).description or ""
        said = f"{decision.outcome}: {decision.reason} ([report]({page}/artifacts/{HTML}), [backtest]({page}))"
        client.update_model_version(config.model, challenger.version, f"{described.partition(_MARK)[0]}{_MARK}{said}")
    aliases.tag(client, config, challenger.version, tags)


def _read_decision(client: "MlflowClient", config: TrackingConfig, run_id: str) -> Decision:
    from pipelines.backtest.runs import read_text

    return Decision.from_json(read_text(client, config, run_id, DECISION))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
