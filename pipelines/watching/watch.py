"""One look after another at a server and the data set: what is logged, counted, and asked for.

Knows what is looked at and when a look asks for a retraining; knows nothing of retraining, of signals or of clocks that
call it.
"""

import datetime as dt
import pathlib
import threading
import time
from typing import TextIO

import polars as pl

from forecaster.config import Config, parse_frequency
from forecaster.data.manifest import Manifest, manifest_at
from forecaster.errors import ForecasterError, StorageError
from pipelines.memory import Memory
from pipelines.training.dataset import read_manifest
from pipelines.watching import drift
from pipelines.watching.metrics_page import MetricsPage, fetch
from pipelines.watching.reference import Served, served
from pipelines.watching.serving_quality import ServingQuality
from pipelines.watching.stability import Stability, stability
from pipelines.window import window_start

DRIFT, NEW_OBSERVATIONS = "drift", "new_observations"


def memory_path(config: Config) -> pathlib.Path:
    """Return where what is remembered lies: beside the data set."""
    folder = pathlib.Path(config.ingest.output)
    return folder.with_name(folder.name + ".schedule.json")


class Watch:
    """Looks at one server. `look` is one thread's; what a retraining changes may be another's.

    Args:
        config: all of it.
        memory: of the looks before.
        stream: for lines for people.
    """

    def __init__(self, config: Config, memory: Memory, stream: TextIO) -> None:
        self._config, self._memory, self._stream = config, memory, stream
        self._lock = threading.Lock()
        self._quality: ServingQuality | None = None
        self._served: Served | None = None
        self._inputs: tuple[tuple[str, str], drift.Signal | None] | None = None
        self._mend_times()

    def began(self, trigger: str) -> None:
        """Note that a retraining begins: from now on observations are counted anew."""
        with self._lock:
            memory = self._memory
            memory.observations, memory.began, memory.unfinished = 0, time.time(), trigger
            self._save()

    def ended(self) -> None:
        """Note that it has ended, one way or the other, and is not to be gone on with."""
        with self._lock:
            self._memory.ended, self._memory.unfinished = time.time(), None
            self._served = None  # it may have backtested the served version once more
            self._save()

    def look(self) -> str | None:
        """Look once, and return the trigger of the retraining that is asked for, if any; errors are said and over."""
        url = self._config.schedule.metrics_url
        if url is None:
            return None
        try:
            page = fetch(url, self._config.tracking.model)
            return self._judge(page)
        except Exception as error:  # noqa: BLE001 -- the next look tries again
            self._stream.write(f"watch: {' '.join(str(error).split()) or type(error).__name__}\n")
            return None
        finally:
            self._stream.flush()

    def close(self) -> None:
        """End the run under way of the serving experiment."""
        if self._quality is not None:
            self._quality.close()

    def _save(self) -> None:
        """Keep what is remembered; a full disk ends no scheduler."""
        try:
            self._memory.save()
        except StorageError as error:
            self._stream.write(f"watch: {error}\n")

    def _judge(self, page: MetricsPage) -> str | None:
        if page.version is None:
            self._stream.write(f"watch: the server does not serve {page.model!r}\n")
            return None
        with self._lock:
            self._memory.count(page.applied, page.started)
            self._save()
        self._log(page)
        signals = self._drifted(page)
        if signals:
            return DRIFT
        wanted, counted = self._config.schedule.new_observations, self._memory.observations
        if wanted is not None and counted >= wanted and self._memory.unfinished is None:
            self._stream.write(f"watch: {counted:,} new observations since the last retraining\n")
            return NEW_OBSERVATIONS
        return None

    def _log(self, page: MetricsPage) -> None:
        """Put the page on the dashboard; that it cannot be put there keeps nothing else from being done."""
        try:
            self._quality = self._quality or ServingQuality(self._config.tracking)
            self._quality.log(page)
        except ForecasterError as error:
            self._stream.write(f"watch: {error}\n")

    def _drifted(self, page: MetricsPage) -> list[drift.Signal]:
        """Return what has drifted; nothing while a retraining runs, and for a pause behind one."""
        schedule = self._config.schedule
        if not schedule.watches_drift:
            return []
        assert page.version is not None
        version = self._served
        if version is None or version.version != page.version:
            version = self._served = served(self._config.tracking, page.version)
        live = (page.version, page.live, page.resident, version.reference)
        with self._lock:
            self._memory.drift, found = drift.look(self._memory.drift, *live, schedule)
            self._save()
        inputs = self._inputs_drifted(version)
        signals = found + ([inputs] if inputs is not None else [])
        if not signals or self._pausing():
            return []
        for signal in signals:
            self._stream.write(f"watch: drift: {signal.text}\n")
        if self._quality is not None:
            self._quality.note("Drift: " + "; ".join(signal.text for signal in signals))
        return signals

    def _mend_times(self) -> None:
        """Let a clock that was set back block nothing for longer than it ought to."""
        with self._lock:
            if self._memory.not_after(time.time()):
                self._save()

    def _pausing(self) -> bool:
        self._mend_times()
        memory = self._memory
        last = max(memory.began or 0.0, memory.ended or 0.0)
        return memory.unfinished is not None or time.time() < last + seconds(self._config.schedule.drift_pause)

    def _inputs_drifted(self, version: Served) -> drift.Signal | None:
        """Return whether the newest of the data set is unusual; it is looked at when it has changed."""
        if version.trained_until is None or manifest_at(self._config.ingest.output) is None:
            return None
        manifest = read_manifest(self._config)
        key = manifest.content_hash, version.version
        if self._inputs is None or self._inputs[0] != key:
            found = newest_stability(self._config, manifest, version.trained_until)
            self._inputs = key, inputs_signal(found, self._config.schedule.max_stability_index)
        return self._inputs[1]


def newest_stability(config: Config, manifest: Manifest, trained_until: dt.datetime) -> Stability | None:
    """Compare the newest window of the data set with what a version was trained on, None if that says nothing."""
    folder = pathlib.Path(config.ingest.output)
    held = (pl.scan_parquet(folder / file.name, glob=False) for file in manifest.files)
    rows = pl.concat([one.select("unique_id", "ds", "y") for one in held])
    values = rows.filter(pl.col("y").is_finite())
    first, last = values.select(pl.min("ds"), pl.max("ds").alias("last")).collect(engine="streaming").row(0)
    if last is None or last <= trained_until:
        return None
    step = dt.timedelta(microseconds=config.data.step_us)
    window = window_start(config, pl.DataFrame({"unique_id": ["", ""], "ds": [first, last], "y": [0.0, 0.0]}))
    return stability(values, trained_until=trained_until, since=max(window, trained_until + step), step=step)


def inputs_signal(found: Stability | None, max_index: float) -> drift.Signal | None:
    """Return the signal of inputs that are unusual, None if they are not."""
    if found is None or found.index <= found.usual + max_index:
        return None
    limit = found.usual + max_index
    text = (
        f"the population stability index of {found.values:,} values since {found.since:%Y-%m-%d %H:%M} is"
        f" {found.index:.2f} (limit {limit:.2f}: {found.usual:.2f} is usual in the training)"
    )
    return drift.Signal("inputs", found.index, limit, text)


def seconds(text: str) -> float:
    """Return the seconds of an interval such as 6h."""
    return parse_frequency(text) / 1e6
