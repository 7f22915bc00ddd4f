"""What tests of storage share: records in short, records that compare by value, and how each backend is opened."""

import math
import pathlib
from collections.abc import Callable

import numpy as np

from forecaster.config import DurabilityName
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.issued import Issued
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns, Record

Opener = Callable[[], Storage]

FOR_EVER_US = 2**62


def columns(*rows: tuple[str, int, float], **covariates: list[float]) -> Columns:
    """Return rows of (series id, time, value), with covariates of them by name."""
    ids = tuple(dict.fromkeys(row[0] for row in rows))
    place = {name: k for k, name in enumerate(ids)}
    return Columns(
        ids,
        np.array([place[row[0]] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.float64),
        tuple(covariates),
        np.array(list(covariates.values()), dtype=np.float64).T if covariates else None,
    )


def plain(record: Record) -> object:
    """Return a record as something that compares by value; what is not given of covariates is as good as NaN."""
    if not isinstance(record, Columns):
        return record
    names = [record.series_ids[i] for i in record.series.tolist()]
    beside: list[dict[str, float]] = [{} for _ in names]
    if record.covariates is not None:
        rows = [zip(record.covariate_names, row, strict=True) for row in record.covariates.tolist()]
        beside = [{name: value for name, value in row if not math.isnan(value)} for row in rows]
    values = [None if math.isnan(v) else v for v in record.values.tolist()]
    return list(zip(names, record.time_us.tolist(), map(repr, values), beside, strict=True))


def exactly(record: Record) -> object:
    """Return a record as something that compares by value, covariates that are all missing included."""
    if isinstance(record, Issued):
        arrays = (record.series, record.horizons, record.origin_us, record.frame, record.bounds)
        return record.fingerprint, record.series_ids, [(array.dtype, array.tolist()) for array in arrays]
    if not isinstance(record, Columns) or record.covariates is None:
        return plain(record)
    return plain(record), record.covariate_names, record.covariates.shape


def contents(storage: Storage, after: int = 0) -> list[tuple[int, object]]:
    """Return all that the journal yields behind a sequence."""
    return [(sequence, plain(record)) for sequence, record in storage.journal.read(after)]


def prune_all(storage: Storage, through: int, *, keep_history: bool = True) -> int:
    """Prune until there is nothing to do; return how many records were taken."""
    taken = 0
    while part := storage.journal.prune(through, committed_before_us=FOR_EVER_US, keep_history=keep_history):
        taken += part
    return taken


def erase_all(storage: Storage) -> int:
    """Erase until there is nothing to do; return how much was done."""
    done = 0
    while part := storage.journal.erase():
        done += part
    return done


def sqlite_opener(
    folder: pathlib.Path, durability: DurabilityName = "commit", *, accepted_loss: int | None = None
) -> Opener:
    """Return how a folder is opened, again and again."""
    return lambda: open_storage(str(folder), durability, "a model", accepted_loss=accepted_loss)
