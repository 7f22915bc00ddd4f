"""What the engine needs of storage: a journal, which is the truth, and snapshots, which are a cache of its fold.

The journal is a write-ahead log: a record is in it before any state knows of it. Interfaces only. Storage knows series
ids, times and values; it does not know models (a snapshot is bytes with a fingerprint), tensors or gRPC. All errors are
`StorageError`.

One thread at a time calls a `Storage`; another thread works with its own `Storage.beside()`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forecaster.errors import DamagedHistoryError
from forecaster.serving.storage.records import Attributes, Columns, Record, Snapshot, nothing
from forecaster.serving.storage.words import Bools, Words

OnDamage = Callable[[DamagedHistoryError], None]
IDLE = "idle"  # stands for a fingerprint where snapshots lie of what is known of series that no model has a state of
RETURNED = "returned"  # likewise: of those that came back; former versions that are kept have no snapshots of them
AMENDED = "amended"  # likewise: of series that have late or corrected values, which their states do not know yet


@dataclass(frozen=True, slots=True)
class Activation:
    """The model version whose states are served.

    Args:
        version: of the registered model.
        fingerprint: of its weights and configuration.
    """

    version: str
    fingerprint: str


class Journal(Protocol):
    """Every acknowledged record, in order."""

    def append(self, *records: Record) -> int:
        """Write records, all or none, and return the last one's sequence; they are then as durable as promised.

        A `Deletion` also removes the series' snapshots and its remembered attributes, in the same transaction where
        the backend has one for both, and notes the series for `erase`. Raises StorageError if they could not be
        written; then nothing of them is kept. The next append tries anew.
        """
        ...

    def last_sequence(self) -> int:
        """Return the last record's sequence, 0 if there never was one; kept records or not, it never goes down."""
        ...

    def first_sequence(self) -> int:
        """Return the sequence of the oldest record that `read` can still yield, `last_sequence() + 1` without any."""
        ...

    def dropped(self) -> int:
        """Return up to which record the journal was pruned without a history, 0 if it never was."""
        ...

    def damage(self) -> list[str]:
        """Look through the whole history and return what is changed or gone of it, a sentence each."""
        ...

    def read(
        self,
        after: int,
        *,
        since_us: int | None = None,
        before_us: int | None = None,
        on_damage: OnDamage | None = None,
    ) -> Iterator[tuple[int, Record]]:
        """Yield the records behind sequence `after`, in order, from the history and then from the journal.

        Of a record in the history there are its observations or its static covariates, perhaps in several parts. With
        `since_us`, records that hold only observations before that time may be left out, with `before_us` those that
        hold only observations from that time on. Raises StorageError at a corrupted one, naming the file and what to
        do. With `on_damage` a damaged part of the history is told to it instead of being raised, and left out: the
        series that have rows in it are whoever's who asks.
        """
        ...

    def find(self, wanted: Columns, give_way: Callable[[], None] = nothing, whole: Bools | None = None) -> Words:
        """Look rows up by series and time, the newest records first, history included, and whether they were said.

        `give_way` is called at every record, and may rest. Of the rows that `whole` marks, bool [N], the covariates are
        compared too.
        """
        ...

    def attributes(self, series_ids: Sequence[str], through: int = 2**62) -> Attributes:
        """Return the latest static covariates, as of a record, of those of the series that were given some.

        Known are the latest ones of all, and those as of every record behind `first_sequence`.
        """
        ...

    def past_attributes(self, series_ids: Sequence[str]) -> list[Attributes]:
        """Return all static covariates that some series ever had, of one series each, in order.

        Kept are the latest ones, and all others as long as the history has what came with them.
        """
        ...

    def deletions(self) -> list[tuple[int, str]]:
        """Return the deletions that wait for `erase`, sequence and series, in order.

        What `erase` has finished is not among them: nothing is left then of what such a series had before. Who reads
        records while others are erased asks first, since a deletion's own record may be gone before it is reached.
        """
        ...

    def prune(self, through: int, *, committed_before_us: int, keep_history: bool) -> int:
        """Take records up to sequence `through` that were committed before a time out of the journal.

        With `keep_history` their observations go to the Parquet history first, durably, and static covariates stay. A
        part of the work at a time: call again until it returns 0, the number of records taken. Never takes a record
        whose series waits for `erase`; that one first.
        """
        ...

    def erase(self) -> int:
        """Remove what deleted series left in journal and history, so that no file holds a byte of their ids or values.

        What a series got after its deletion stays. A part of the work at a time, which keeps whoever appends waiting
        for some milliseconds: call again until it returns 0, how much was looked through or rewritten. What is not done
        goes on at the next start.
        """
        ...

    def sync(self) -> None:
        """Make everything appended so far survive a power cut."""
        ...


class Snapshots(Protocol):
    """Each series' latest state for each model, by the model's fingerprint."""

    def save(self, fingerprint: str, snapshots: Sequence[Snapshot]) -> None:
        """Keep these snapshots instead of the older ones of the same series and fingerprint, all or none.

        They may be lost by a power cut until `sync`, the latest first, never torn.
        """
        ...

    def fetch(self, fingerprint: str, series_ids: Sequence[str]) -> list[Snapshot]:
        """Return the snapshots of those of the series that have one, in any order, in few queries."""
        ...

    def read(self, fingerprint: str, after: str = "") -> Iterator[Snapshot]:
        """Yield a fingerprint's snapshots by ascending series id (by code points), behind `after`."""
        ...

    def count(self, fingerprint: str) -> int:
        """Return how many series have a snapshot."""
        ...

    def set_idle(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these under `IDLE` instead of the same series' snapshots of all models, all or none.

        A model's snapshot that is newer than the one that replaces it stays.
        """
        ...

    def end_idle(self, fingerprint: str, snapshots: Sequence[Snapshot], series_ids: Sequence[str]) -> None:
        """Keep states of a model again, of some series, instead of what `set_idle` kept of them, all or none.

        Under `RETURNED` it is noted of each under which model it came back, until `settle_returned`.
        """
        ...

    def end_amended(self, fingerprint: str, snapshots: Sequence[Snapshot], through: int) -> None:
        """Keep states of a model that know everything up to a record, instead of those of all models, all or none.

        What is kept of the same series under `AMENDED` as of that record or before goes, and under `RETURNED` it is
        noted of each under which model it was folded.
        """
        ...

    def settle_returned(self, fingerprint: str) -> None:
        """Forget of series that they came back under other models than this, which is served now."""
        ...

    def drop(self, fingerprint: str) -> None:
        """Remove a fingerprint's snapshots and what `complete` noted for it."""
        ...

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of models that have snapshots or a note of `complete`."""
        ...

    def complete(self, fingerprint: str, sequence: int) -> None:
        """Note that snapshots hold all that records up to `sequence` changed (a low watermark): replay starts there."""
        ...

    def complete_through(self, fingerprint: str) -> int | None:
        """Return what `complete` noted last, None if it never did."""
        ...

    def keep_bundle(self, fingerprint: str, files: Mapping[str, bytes]) -> None:
        """Keep a model's files by their names, durably, until another one is activated. To be done before that."""
        ...

    def kept_bundle(self, fingerprint: str) -> dict[str, bytes] | None:
        """Return a model's files, None if they are not kept."""
        ...

    def activate(self, activation: Activation) -> None:
        """Note which model version is served, durably, and let go of the files of others."""
        ...

    def active(self) -> Activation | None:
        """Return what `activate` noted last."""
        ...

    def sync(self) -> None:
        """Make everything saved so far survive a power cut."""
        ...


class Storage(Protocol):
    """One registered model's journal and snapshots, owned by one server at a time."""

    @property
    def journal(self) -> Journal:
        """The journal."""
        ...

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots."""
        ...

    @property
    def keeps_records(self) -> bool:
        """Whether records outlive the call that appends them, so that they can be folded again."""
        ...

    @property
    def accepted_loss(self) -> int:
        """The record up to which whoever opened it goes on without what is not there any more, 0 as a rule."""
        ...

    def beside(self) -> "Storage":
        """Return the same storage for another thread, with connections of its own; closing it releases only those."""
        ...

    def check(self) -> None:
        """Raise FencedError if it is known that another server has taken over; asks nobody."""
        ...

    def damaged(self) -> list[str]:
        """Return what was met of the history that is changed or gone, a sentence each; any thread may ask."""
        ...

    def close(self) -> None:
        """Release everything; another process may open it."""
        ...


def in_batches(snapshots: Iterable[Snapshot], size: int) -> Iterator[list[Snapshot]]:
    """Yield lists of up to `size` snapshots."""
    batch: list[Snapshot] = []
    for snapshot in snapshots:
        batch.append(snapshot)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
