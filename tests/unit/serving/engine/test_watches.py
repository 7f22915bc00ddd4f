"""Who watches is woken by what he watches, once for all that changed meanwhile, and by nothing else."""

import asyncio
import threading

import pytest

from forecaster.serving.engine import watches
from forecaster.serving.engine.engine import Engine
from forecaster.serving.engine.watches import Watch, Watches, watched
from forecaster.serving.storage.volatile import VolatileStorage
from tests.unit.serving.folding import BUNDLE, columns, work


def test_all_are_told_at_first_and_then_those_that_changed() -> None:
    async def play() -> None:
        told = Watches()
        assert not told
        with watched(told, ["a", "b", "c"]) as watch, watched(told, ["b"]) as other:
            assert await watch.changed(2) == ["a", "b"]
            assert await watch.changed(2) == ["c"]
            assert await other.changed(9) == ["b"]
            done = threading.Thread(target=lambda: [told.note(["b", "x"]), told.note(["a"]), told.note(["b"])])
            done.start()
            done.join()
            waiting = asyncio.create_task(watch.changed(9))
            assert await waiting == ["b", "a"]
            assert await other.changed(9) == ["b"]
            idle = asyncio.create_task(watch.changed(9))
            told.note(["x"])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not idle.done()
            told.note_all()
            assert await idle == ["a", "b", "c"]
        assert not told

    asyncio.run(play())


def test_what_comes_between_is_told_once() -> None:
    async def play() -> None:
        watch = Watch(["a", "b"])
        await watch.changed(9)
        for _ in range(1000):
            watch.wake("a")
        assert await watch.changed(9) == ["a"]

    asyncio.run(play())


def test_an_engine_says_which_series_have_changed() -> None:
    """Those with a row that was applied, new static covariates, or that were deleted; not those of repeated rows."""

    async def play() -> None:
        engine = Engine(BUNDLE, VolatileStorage())
        engine.observe([columns([("a", 1, 1.0), ("b", 1, 1.0)])])
        with watched(engine.watches, ["a", "b", "c"]) as watch:
            await watch.changed(9)
            steps = [
                (lambda: engine.observe([columns([("a", 1, 1.0), ("b", 2, 1.0), ("d", 2, 1.0)])]), ["b"]),
                (lambda: engine.observe([columns([("c", 2, 1.0)]), columns([("a", 2, 1.0)])]), ["c", "a"]),
                (lambda: engine.observe([work([("a", 2, 1.0, ())], {"b": ({"area": 1.0}, {})})]), ["b"]),
                (lambda: engine.delete("b"), ["b"]),
            ]
            for step, expected in steps:
                step()
                assert await watch.changed(9) == expected

    asyncio.run(play())


def test_many_watchers_of_many_series_are_woken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two parts the event loop goes on; what is noted meanwhile is told too, and who has ended is not."""
    monkeypatch.setattr(watches, "_WOKEN_AT_ONCE", 3)

    async def play() -> None:
        many = Watches()
        names = [f"s{k}" for k in range(10)]
        with watched(many, names) as one, watched(many, names) as two:
            await one.changed(99)
            await two.changed(99)
            with watched(many, names):
                many.note_all()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            many.note(["s0"])
            seen: dict[str, int] = {}
            while len(seen) < 10 or seen["s0"] < 2:
                for name in await one.changed(99):
                    seen[name] = seen.get(name, 0) + 1
            assert seen == {name: 2 if name == "s0" else 1 for name in names}
            while many._noted:
                await asyncio.sleep(0)
            assert sorted(await two.changed(99)) == names

    asyncio.run(play())
