"""What a step knows of why it runs: who asked for it, and the retraining that it is a part of.

Knows nothing of what any step does.
"""

import sys
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Why a step runs, and where it writes its lines for people.

    Args:
        trigger: what asked for it, such as manual, cron, interval, drift or new_observations.
        parent_run_id: of the retraining's run, on whose page the step's run is shown; None for a step of its own.
        key: what data and configuration the retraining is of; runs and versions made for it are tagged with it.
        stream: for lines for people.
    """

    trigger: str = "manual"
    parent_run_id: str | None = None
    key: str | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)

    def tags(self, step: str) -> dict[str, str]:
        """Return the tags of the run of a step."""
        tags = {"step": step, "trigger": self.trigger}
        tags |= {"mlflow.parentRunId": self.parent_run_id} if self.parent_run_id is not None else {}
        return tags | ({"retrain_key": self.key} if self.key is not None else {})
