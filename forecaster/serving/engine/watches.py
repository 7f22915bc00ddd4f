"""Who waits for new forecasts of which series: the engine's thread says what changed, watchers wake up.

What changed while a watcher was busy waits as a set of names, however often each has changed: a slow one costs no more
memory than a fast one. Knows nothing of forecasts or messages.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

PAIR_BYTES = 512  # about what a watched series takes of memory, for each watcher
_WOKEN_AT_ONCE = 10_000  # some milliseconds


class Watch:
    """One watcher's; made and used on the event loop.

    Args:
        series_ids: that are watched.
    """

    def __init__(self, series_ids: Sequence[str]) -> None:
        self.series_ids = tuple(series_ids)
        self._changed = dict.fromkeys(self.series_ids)
        self._due = asyncio.Event()
        self._due.set()

    def wake(self, series_id: str) -> None:
        """Note that one of the series has changed."""
        self._changed[series_id] = None
        self._due.set()

    async def changed(self, most: int) -> list[str]:
        """Wait until some have changed since they were last told, and return up to `most`; all of them at first."""
        await self._due.wait()
        names = list(self._changed)[:most]
        for name in names:
            del self._changed[name]
        if not self._changed:
            self._due.clear()
        return names


class Watches:
    """All watchers of one engine."""

    def __init__(self) -> None:
        self._by_series: dict[str, dict[Watch, None]] = {}
        self._noted: dict[str, None] = {}  # whose watchers are yet to be woken; the event loop's
        self._loop: asyncio.AbstractEventLoop | None = None

    def __bool__(self) -> bool:
        """Whether anybody watches; any thread may ask."""
        return bool(self._by_series)

    def add(self, watch: Watch) -> None:
        """Begin to wake a watcher; on the event loop."""
        self._loop = asyncio.get_running_loop()
        for name in watch.series_ids:
            self._by_series.setdefault(name, {})[watch] = None

    def remove(self, watch: Watch) -> None:
        """Wake a watcher no more; on the event loop."""
        for name in watch.series_ids:
            watchers = self._by_series[name]
            del watchers[watch]
            if not watchers:
                del self._by_series[name]

    def note(self, series_ids: Iterable[str]) -> None:
        """Wake whoever watches some of the series, which have changed; on any thread."""
        names = [name for name in series_ids if name in self._by_series]
        if names:
            self._call(lambda: self._add(names))

    def note_all(self) -> None:
        """Wake everybody: another version serves; on any thread."""
        if self._by_series:
            self._call(lambda: self._add(self._by_series))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it is closed: nobody watches any more
            self._loop.call_soon_threadsafe(function)

    def _add(self, names: Iterable[str]) -> None:
        is_idle = not self._noted
        self._noted.update(dict.fromkeys(names))
        if is_idle:
            self._wake()

    def _wake(self) -> None:
        """Wake the watchers of some of the noted series, and leave the others their turn."""
        woken = 0
        while self._noted and woken < _WOKEN_AT_ONCE:
            name = next(iter(self._noted))
            del self._noted[name]
            for watch in self._by_series.get(name, ()):  # they may have ended meanwhile
                watch.wake(name)
                woken += 1
        if self._noted:
            asyncio.get_running_loop().call_soon(self._wake)


@contextlib.contextmanager
def watched(watches: Watches, series_ids: Sequence[str]) -> Iterator[Watch]:
    """Give a watcher that is woken as long as the block runs."""
    watch = Watch(series_ids)
    watches.add(watch)
    try:
        yield watch
    finally:
        watches.remove(watch)
