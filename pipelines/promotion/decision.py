"""What became of a challenger, and why: as a line, as Markdown, and as the JSON that is kept with the backtest.

Knows a backtest's result and the rule; knows nothing of MLflow or of aliases.
"""

import dataclasses
import datetime as dt
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from forecaster.config import PromotionConfig, to_dict
from forecaster.evaluation_report import without_nan
from forecaster.registry.rule import Clause, Measured, judge
from forecaster.registry.trial import TrialVerdict
from pipelines.backtest.result import CHALLENGER, CHAMPION, BacktestResult, utc_text

_USED = "can be used by a process of its own"
Outcome = Literal["promoted", "refused", "nothing to do"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a challenger.

    Args:
        outcome: of the rule.
        model: the registered model's name.
        version: the challenger's.
        champion: the champion's version before; None if there was none.
        reason: in words, with the numbers.
        rule: the section `promotion` of the configuration.
        measured: what the rule looked at; None if there was nothing to do.
        clauses: of the rule, how each came out.
        run_id: of the backtest.
        data: the hash of the backtest's data set.
        time: of the decision.
        dry_run: whether nothing was changed.
    """

    outcome: Outcome
    model: str
    version: str
    champion: str | None = None
    reason: str = ""
    rule: dict[str, Any] = dataclasses.field(default_factory=dict)
    measured: Measured | None = None
    clauses: tuple[Clause, ...] = ()
    run_id: str = ""
    data: str = ""
    time: dt.datetime
    dry_run: bool = False

    @classmethod
    def of(cls, result: BacktestResult, rule: PromotionConfig, time: dt.datetime) -> "Decision":
        """Judge the challenger of a backtest."""
        measured = result.measured()
        verdict = judge(measured, rule)
        return cls(
            outcome="promoted" if verdict.passed else "refused",
            model=result.model,
            version=result.versions[CHALLENGER],
            champion=result.versions.get(CHAMPION),
            reason=verdict.reason,
            rule=to_dict(rule),
            measured=measured,
            clauses=verdict.clauses,
            run_id=result.run_id,
            data=result.data,
            time=time,
        )

    def after(self, trial: TrialVerdict) -> "Decision":
        """Return the decision as it is behind the trial of the version that it would promote."""
        clause = Clause(_USED, trial.failure or "it loads, observes and forecasts", trial.passed, trial.failure)
        tried = dataclasses.replace(self, clauses=(*self.clauses, clause))
        return tried if trial.passed else dataclasses.replace(tried, outcome="refused", reason=trial.failure)

    @property
    def promoted(self) -> bool:
        """Whether the challenger became the champion, or would without `--dry-run`."""
        return self.outcome == "promoted"

    def line(self) -> str:
        """Return the outcome as a line for people."""
        name = f"{self.model} version {self.version}"
        if self.outcome == "nothing to do":
            return f"nothing to do: {name} {self.reason}"
        if self.promoted:
            over = f" in place of version {self.champion}" if self.champion is not None else ""
            said = f"{name} {'would become' if self.dry_run else 'is'} the champion{over}: {self.reason}"
        else:
            stays = f"version {self.champion} stays" if self.champion is not None else "there is none"
            said = f"{name} {'would not become' if self.dry_run else 'is not'} the champion ({stays}): {self.reason}"
        return f"dry run, nothing was changed: {said}" if self.dry_run else said

    def metrics(self) -> dict[str, float]:
        """Return the figures that were judged, by flat names, as a dashboard wants them."""
        if self.measured is None:
            return {}
        found = self.measured
        figures = {"challenger_mase": found.mase, "seasonal_naive_mase": found.naive_mase}
        figures |= {
            f"challenger_coverage_{round(100 * found.nominal)}": found.coverage,
            "promoted": float(self.promoted),
        }
        return figures | ({"champion_mase": found.champion_mase} if found.champion_mase is not None else {})

    def markdown(self) -> str:
        """Return the verdict and the rule's clauses."""
        lines = [f"**{self.outcome.capitalize()}.** {self.line()}"]
        if self.clauses:
            rows = [
                f"| {clause.name} | {clause.numbers} | {'pass' if clause.passed else '**fail**'} |"
                for clause in self.clauses
            ]
            lines += ["", "| the challenger … | measured, and asked for | |", "|---|---|---|", *rows]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Return all of it as JSON, with null for what is not finite."""
        plain = dataclasses.asdict(self)
        plain.pop("dry_run")
        return json.dumps(without_nan(plain), indent=2, default=utc_text) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Decision":
        """Read what `to_json` wrote."""
        read = json.loads(text)
        measured = read["measured"]
        named = {
            "time": dt.datetime.fromisoformat(read["time"]),
            "clauses": tuple(Clause(**clause) for clause in read["clauses"]),
            "measured": _measured(measured, read["champion"] is not None) if measured is not None else None,
        }
        return cls(**(read | named))


def _measured(read: dict[str, Any], has_champion: bool) -> Measured:
    """Read the figures, in which null is not finite."""
    numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in read.items()}
    return Measured(**(numbers | ({} if has_champion else {"champion_mase": None})))
