"""Whether all that a state holds is what was written: `forecaster verify-state`, beside a running server too.

Reads everything and writes nothing. Knows records, snapshots and files; knows nothing of what is made of them.
"""

from dataclasses import dataclass, field

from forecaster.serving.storage.records import Snapshot, decode

MOST_TOLD = 20


@dataclass(slots=True)
class Inspection:
    """What was looked at, and what is wrong with it.

    Args:
        place: of the state, as it may be shown.
        looked_at: how much of what.
        wrong: a sentence for each fault.
    """

    place: str
    looked_at: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was looked at."""
        self.looked_at[what] = self.looked_at.get(what, 0) + number

    def check_record(self, sequence: int, payload: bytes) -> None:
        """Look at a record."""
        self.count("records")
        try:
            decode(payload)
        except ValueError as error:
            self.wrong.append(f"record {sequence} is corrupted: {error}")

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Look at a snapshot."""
        self.count("snapshots")
        if not snapshot.is_whole:
            self.wrong.append(f"the snapshot of series {snapshot.series_id!r} is corrupted")

    def check_end(self, end: int, known: int) -> None:
        """Compare the journal's end with what is known of it."""
        if known > end:
            self.wrong.append(f"the journal ends with record {end}, but records up to {known} were acknowledged")

    def report(self) -> str:
        """Return it as lines for a person."""
        looked_at = ", ".join(f"{number:,} {what}" for what, number in self.looked_at.items()) or "nothing"
        if not self.wrong:
            return f"{self.place}: {looked_at}: all as it was written"
        told = [f"  {one}" for one in self.wrong[:MOST_TOLD]]
        rest = len(self.wrong) - len(told)
        more = [f"  and {rest} more"] if rest else []
        return "\n".join((f"{self.place}: {looked_at}: {len(self.wrong)} faults", *told, *more))
