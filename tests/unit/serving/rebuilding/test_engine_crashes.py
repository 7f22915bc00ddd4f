"""An engine that ends at any call that writes, before or after it: the next one knows just what was acknowledged."""

import asyncio
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import pytest

from forecaster.config import ServingConfig
from forecaster.errors import SeriesNotFoundError
from forecaster.serving.engine.batcher import Batcher
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Activation, Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.records import Columns, Deletion, Snapshot
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.upkeep.maintenance import Maintenance
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.engine.test_eviction import assert_folded
from tests.unit.serving.folding import BUNDLE, GAP, HOUR_US, columns

LIMIT = 3
NAMES = [f"s{k}" for k in range(7)]
WRITES = ("append", "prune", "erase", "sync", "save", "complete", "activate", "drop")
Rows = list[tuple[str, int, float]]
Step = tuple[str, Any]


def rows(hour: int, which: Sequence[int]) -> Rows:
    return [(NAMES[k], hour, float("nan") if (hour + k) % 5 == 4 else 10.0 * k + hour) for k in which]


STEPS: list[Step] = [
    ("observe", rows(1, (0, 1, 2))),
    ("observe", [*rows(1, (3,)), *rows(2, (0,))]),
    ("observe", [*rows(1, (4, 5))]),
    ("forecast", NAMES[3:6]),
    ("observe", [*rows(2, (4, 3)), *rows(3, (3,))]),
    ("upkeep", None),
    ("observe", [*rows(2, (1, 2)), *rows(3, (1,))]),
    ("forecast", NAMES[0:2]),
    ("observe", rows(2, (5,))),
    ("delete", NAMES[0]),
    ("observe", rows(2 + GAP + 5, (2,))),
    ("activate", "2"),
    ("upkeep", None),
    ("observe", rows(9, (0, 6))),
    ("forecast", [NAMES[0], NAMES[6], NAMES[3]]),
    ("observe", [*rows(10, (0, 6)), *rows(4, (3,))]),
    ("snapshot", None),
    ("delete", NAMES[3]),
    ("observe", [*rows(3, (4,)), *rows(11, (6,))]),
    ("upkeep", None),
    ("observe", rows(12, (0, 6))),
    ("drop", None),
    ("upkeep", None),
]


class CrashError(Exception):
    """The process ends here."""


class Fuse:
    """Ends everything at the n-th boundary of a write."""

    def __init__(self, at: int) -> None:
        self.left, self.count = at, 0

    def pass_by(self) -> None:
        """Cross one boundary; raises CrashError at the last one, and at whatever follows it."""
        self.count += 1
        self.left -= 1
        if self.left <= 0:
            raise CrashError


class Fused:
    """A journal or snapshots with a fuse before and after every call that writes."""

    def __init__(self, inner: object, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def __getattr__(self, name: str) -> object:
        method = getattr(self._inner, name)
        return self._fused(method) if name in WRITES else method

    def _fused(self, method: Callable[..., object]) -> Callable[..., object]:
        def fused(*values: object, **options: object) -> object:
            self._fuse.pass_by()
            answer = method(*values, **options)
            self._fuse.pass_by()
            return answer

        return fused


class FusedStorage:
    """Storage with a fuse."""

    accepted_loss, keeps_records = 0, True

    def __init__(self, inner: Storage, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse
        self.journal, self.snapshots = Fused(inner.journal, fuse), Fused(inner.snapshots, fuse)

    def beside(self) -> "FusedStorage":
        return FusedStorage(self._inner.beside(), self._fuse)

    def close(self) -> None:
        self._inner.close()


def upkeep(engine: Engine, storage: Storage) -> None:
    """Do one round of a server's maintenance."""

    async def go_round() -> None:
        batcher = Batcher(engine, max_batch=LIMIT, max_queued=99, on_defect=lambda error: None)
        batcher.start()
        with ThreadPoolExecutor(1) as pool, closing(storage.beside()) as beside:
            config = ServingConfig(journal_seconds=0.0, durability="interval")
            try:
                await Maintenance(engine, batcher, beside, pool, config).round()
            finally:
                await batcher.drain()

    asyncio.run(go_round())


def take(engine: Engine, storage: Storage, step: Step) -> None:
    """Do one step."""
    kind, value = step
    if kind == "observe":
        outcomes = engine.observe([columns(value)])[0].outcomes
        assert set(outcomes.tolist()) <= {1, 2}
    elif kind == "forecast":
        engine.forecast([ForecastWork(tuple(value), 4, (0.1, 0.5, 0.9))])
    elif kind == "delete":
        with contextlib.suppress(SeriesNotFoundError):  # at the second try
            engine.delete(value)
    elif kind == "upkeep":
        upkeep(engine, storage)
    elif kind == "activate":
        storage.snapshots.activate(Activation(value, BUNDLE.fingerprint))
    elif kind == "drop":
        storage.snapshots.save("another", [Snapshot.of(name, 1, b"state") for name in NAMES])
        storage.snapshots.complete("another", 1)
        storage.snapshots.drop("another")
    else:
        engine.snapshot()


def plain(steps: Sequence[Step]) -> dict[str, list[tuple[int, float]]]:
    """Return each series' rows after some steps."""
    fold: dict[str, list[tuple[int, float]]] = {}
    for kind, value in steps:
        if kind == "delete":
            fold.pop(value, None)
        for name, hour, y in value if kind == "observe" else ():
            fold.setdefault(name, []).append((hour, y))
    return fold


def journaled(storage: Storage) -> dict[str, list[tuple[int, float]]]:
    """Return the fold of journal and history."""
    fold: dict[str, list[tuple[int, float]]] = {}
    for _, record in storage.journal.read(0):
        if isinstance(record, Deletion):
            fold.pop(record.series_id, None)
        elif isinstance(record, Columns):
            for code, time_us, y in zip(record.series, record.time_us, record.values, strict=True):
                fold.setdefault(record.series_ids[code], []).append((int(time_us) // HOUR_US, float(y)))
    return fold


def states(engine: Engine) -> dict[str, dict[str, Any]]:
    store = engine.lanes.active.store
    found = {}
    for name in NAMES:
        store.begin_turn()
        slots = store.bring([name])
        if slots[0] >= 0:
            found[name] = {key: tensor[0] for key, tensor in store.gather_whole(slots).items()}
    return found


def without_scores(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: tensor for key, tensor in state.items() if not key.startswith("calibration")}
        for name, state in found.items()
    }


@functools.cache
def fed(kept: int) -> dict[str, dict[str, Any]]:
    """Return the states of an engine without limits that was fed what some steps leave, row by row."""
    engine = Engine(BUNDLE, VolatileStorage())
    for name, series in plain(STEPS[:kept]).items():
        for hour, y in series:
            engine.observe([columns([(name, hour, y)])])
    return without_scores(states(engine))


def check(engine: Engine, storage: Storage, kept: int) -> None:
    """Check that an engine and its journal hold just what some steps leave."""
    fold = plain(STEPS[:kept])
    assert repr(sorted(journaled(storage).items())) == repr(sorted(fold.items()))
    infos, total = engine.page("", 99)
    assert ([info.series_id for info in infos], total) == (sorted(fold), len(fold))
    assert [info.length for info in infos] == [int(fed(kept)[name]["position"]) for name in sorted(fold)]
    assert_folded(without_scores(states(engine)), fed(kept), same_forecasts=False)


def recovered(storage: Storage) -> Engine:
    engine = Engine(BUNDLE, storage, max_resident=LIMIT)
    engine.recover()
    return engine


def live_until_crash(folder: pathlib.Path, at: int) -> tuple[int, int]:
    """Take steps until the fuse blows; return how many were done and how many boundaries were passed."""
    fuse, done = Fuse(at), 0
    with closing(open_storage(str(folder), "interval")) as inner:
        storage = cast(Storage, FusedStorage(inner, fuse))
        with contextlib.suppress(CrashError):
            engine = recovered(storage)
            for step in STEPS:
                take(engine, storage, step)
                done += 1
    return done, fuse.count


def test_every_boundary_of_every_write_is_survived(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here
    done, boundaries = live_until_crash(tmp_path / "whole", 10**9)
    assert done == len(STEPS)
    assert boundaries > 100
    for at in range(1, boundaries + 1):
        folder = tmp_path / str(at)
        done, _ = live_until_crash(folder, at)
        assert done < len(STEPS)
        with closing(open_storage(str(folder), "interval")) as storage:
            engine = recovered(storage)
            held = repr(sorted(journaled(storage).items()))
            kept = next(k for k in (done, done + 1) if held == repr(sorted(plain(STEPS[:k]).items())))
            check(engine, storage, kept)
            again = recovered(storage)
            assert_folded(states(again), states(engine), same_forecasts=True)
            for step in STEPS[done:]:  # what was not acknowledged is tried again
                take(again, storage, step)
            check(again, storage, len(STEPS))
