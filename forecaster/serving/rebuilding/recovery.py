"""Brings a lane up to the end of the journal: snapshots first, then the records behind them.

Shapes: N series.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from forecaster.errors import StateLostError, UnavailableError
from forecaster.serving.lanes.lane import Lane
from forecaster.serving.lanes.replaying import replay
from forecaster.serving.storage.contract import IDLE, Journal, Snapshots, Storage, in_batches
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.records import Columns, Deletion, Record, surviving, without
from forecaster.serving.storage.replay import Part, in_parts
from forecaster.serving.telemetry import LOGGER

_SNAPSHOTS_AT_ONCE = 4096
_NAMED = 10  # of the lost


def recover(
    lane: Lane,
    storage: Storage,
    should_stop: Callable[[], bool],
    max_resident: int,
    on_amended: Callable[[Columns, int], object],
) -> int:
    """Bring a fresh lane up to the journal's end; return how many rows were replayed.

    Late and corrected values, which `on_amended` is told of, stay out: the states are as if those were not folded yet.

    A series whose snapshot is corrupted is a fold of everything. Where not everything is there any more it stays out,
    and who asks for it is told so. Raises StateLostError if that is so of all series, StorageError if the journal is
    corrupted or was not written on this model's time grid, and UnavailableError soon after `should_stop` says so.
    """
    journal = storage.journal
    through = storage.snapshots.complete_through(lane.bundle.fingerprint) or 0
    _check_reach(lane, storage, through)
    lost = set(_load(lane, storage, should_stop, max_resident))
    if lost and not (journal.dropped() or journal.damage()):
        through, lost = 0, set()
    if lost:
        some = ", ".join(sorted(lost)[:_NAMED])
        LOGGER.error("the states of %d series are lost for now (%s), see above: the others go on", len(lost), some)
    lane.store.sequence = through
    replayed = 0
    records: Iterator[tuple[int, Record]]
    records = (
        (sequence, rest)
        for sequence, record in _without_amended(_surviving(journal, through), on_amended)
        if (rest := without(record, lost)) is not None
    )
    if idle := _idle(lane, storage.snapshots, through):
        records = _beside_idle(lane, storage.snapshots, records, idle)
    for part in in_parts(records, most_series=max_resident // 2, should_stop=should_stop):
        if isinstance(part, Part):
            replayed += sum(_replay(lane, storage.journal, piece) for piece in _pieces(lane, part, max_resident))
        else:
            _delete(lane, *part)
    lane.store.sequence = storage.journal.last_sequence()
    return replayed


def _surviving(journal: Journal, through: int) -> Iterator[tuple[int, Record]]:
    """Yield the records behind one without what series had before their deletion: no snapshot of that is taken."""
    deleted = {name: sequence for sequence, name in journal.deletions()}
    for sequence, record in journal.read(through):
        if (rest := surviving(record, sequence, deleted)) is not None:
            yield sequence, rest


def _without_amended(
    records: Iterator[tuple[int, Record]], on_amended: Callable[[Columns, int], object]
) -> Iterator[tuple[int, Record]]:
    for sequence, record in records:
        if isinstance(record, Columns) and record.amends:
            on_amended(record, sequence)
        else:
            yield sequence, record


def _idle(lane: Lane, snapshots: Snapshots, through: int) -> dict[str, int]:
    """Return the series that are idle, and of which record their states were; where all is replayed, none is."""
    found: dict[str, int] = {}
    for batch in in_batches(snapshots.read(IDLE), _SNAPSHOTS_AT_ONCE):
        if through:
            found |= {snapshot.series_id: snapshot.sequence for snapshot in batch}
        else:
            snapshots.end_idle(lane.bundle.fingerprint, (), [snapshot.series_id for snapshot in batch])
    return found


def _beside_idle(
    lane: Lane, snapshots: Snapshots, records: Iterable[tuple[int, Record]], idle: dict[str, int]
) -> Iterator[tuple[int, Record]]:
    """Yield records without what idle series have got before they were idle, or were only forecast.

    A series that was observed since has come back, and its snapshot was not durable: it is folded again before. Where
    that cannot be done it stays out.
    """
    lost: set[str] = set()
    for sequence, record in records:
        names = (record.series_id,) if isinstance(record, Deletion) else record.series_ids
        if isinstance(record, Deletion) and record.series_id in lost:
            lane.store.forget([record.series_id])
            lost.discard(record.series_id)
            continue
        concerned = [name for name in names if name in idle]
        if isinstance(record, Deletion) and concerned and sequence > idle[record.series_id]:
            del idle[record.series_id]
            continue
        back = [name for name in concerned if sequence > idle[name] and not isinstance(record, Issued)]
        if back:
            lane.store.begin_turn()
            try:
                lane.store.on_lost(back)
            except StateLostError as error:
                LOGGER.error("%d series cannot come back for now: %s", len(back), error)
                lane.store.lose(back)
                lost.update(back)
            snapshots.end_idle(lane.bundle.fingerprint, (), back)
            for name in back:
                del idle[name]
        gone = lost.union(set(concerned).difference(back)) if lost or concerned else set()
        if (rest := without(record, gone)) is not None:
            yield sequence, rest


def _check_reach(lane: Lane, storage: Storage, through: int) -> None:
    """Raise StateLostError if states were to be folded from records that are not there any more."""
    dropped = storage.journal.dropped()
    if dropped > through and dropped > storage.accepted_loss:
        raise StateLostError(
            f"records up to {dropped} were not kept (serving.history=false), and the snapshots that stand for them, of"
            f" version {lane.version} ({lane.bundle.fingerprint[:12]}), are gone or reach only {through}: restore the"
            f" state from a copy, or go on with shorter series by --serving.accept_loss_through {dropped}"
        )


def _pieces(lane: Lane, part: Part, max_resident: int) -> Sequence[Part]:
    """Return a part so that each one's series may be resident: it was written when more of them might be."""
    pieces = part.pieces(max_resident)
    if len(pieces) > 1:  # whoever leaves meanwhile does so as of the record before
        lane.store.save(lane.store.dirty())
    return pieces


def _replay(lane: Lane, journal: Journal, part: Part) -> int:
    lane.store.begin_turn()
    remembered(lane, journal, part)
    return replay(lane, part)


def _load(lane: Lane, storage: Storage, should_stop: Callable[[], bool], max_resident: int) -> list[str]:
    """Make as many series resident as may be; return those whose snapshots are corrupted."""
    broken: list[str] = []
    room = max_resident
    snapshots = storage.snapshots.read(lane.bundle.fingerprint)
    for batch in in_batches(snapshots, min(_SNAPSHOTS_AT_ONCE, max(max_resident, 1))):
        if should_stop():
            raise UnavailableError("the server was told to stop while it recovered")
        room -= len(batch)
        if room < 0:
            break
        broken += lane.store.adopt(batch)
    return broken


def remembered(lane: Lane, journal: Journal, part: Part) -> None:
    """Put static covariates that were given before a part before the first rows of series that begin in it."""
    if not lane.static:
        return
    names = list(part.series_ids)
    unknown = [name for name, slot in zip(names, lane.store.bring(names).tolist(), strict=True) if slot < 0]
    given = {name for _, one in part.attributes for name in one.series_ids}
    attributes = journal.attributes([name for name in unknown if name not in given], part.first)
    if len(attributes):
        part.attributes.insert(0, (part.first, attributes))


def _delete(lane: Lane, sequence: int, deletion: Deletion) -> None:
    """Forget a series, unless its state is of after the deletion."""
    lane.store.begin_turn()
    slot = int(lane.store.bring([deletion.series_id])[0])
    if slot >= 0 and lane.store.stands(lane.store.bring([deletion.series_id]))[0] < sequence:
        lane.store.forget([deletion.series_id])
