"""A stateless peer on the same cores: the same weights behind LitServe, which is sent 168 values for each forecast.

Twice: one series in a request, where LitServe forms the batches, beside one observation in a message of ours; and many
series in a request beside our bulk. Of the settings in `SINGLE` and `BULK` it gets the best. Both sides answer 24 steps
of 3 quantiles; ours has also journaled the observation.
"""

import base64
import contextlib
import pathlib
import statistics
import urllib.request
from collections.abc import Iterator

import numpy as np

from tests.benchmarks.figures import Bar, Figure
from tests.benchmarks.load import Run, http
from tests.benchmarks.others.processes import NotInstalledError, free_port, python_of, running
from tests.benchmarks.rig import HORIZON, LEVELS, Rig
from tests.benchmarks.stream import IN_FLIGHT, paces
from tests.benchmarks.ticks import tick_rate

WINDOW, SECONDS = 168, 4.0
SINGLE = ((1, 32), (1, 64), (2, 32))  # workers, largest batch
BULK = ((1, 64), (2, 64), (2, 256))  # workers, series of a request
BARS = (
    Bar(f"forecasts/s ÷ LitServe's with the same weights, one a message, {IN_FLIGHT} in flight", "×", 10.0, "≥"),
    Bar("forecasts/s ÷ LitServe's with the same weights, bulk", "×", 10.0, "≥"),
)


def measure(rig: Rig) -> list[Figure]:
    """Return our rates in proportion to LitServe's, one right after the other."""
    try:
        python = python_of("peer-server-venv")
    except NotInstalledError as error:
        return [bar.missing(str(error)) for bar in BARS]
    rig.bundle.save(rig.folder / "bundle")
    single = {_words(*one): _rate(rig, python, *one, rows=1) for one in SINGLE}
    bulk = {_words(*one): _rate(rig, python, one[0], 1, rows=one[1]) for one in BULK}
    ours = paces(rig, "stateless-ours")
    tick, how = tick_rate(rig, "stateless-bulk")
    return [
        _figure(BARS[0], ours.rate, single, ours.generator),
        _figure(BARS[1], tick, bulk, how),
    ]


def _figure(bar: Bar, ours: float, theirs: dict[str, float], how: str) -> Figure:
    best = max(theirs, key=lambda one: theirs[one])
    rates = ", ".join(f"{name}: {rate:,.0f}" for name, rate in theirs.items())
    return bar.met_by(ours / theirs[best], f"{ours:,.0f} ÷ {theirs[best]:,.0f} /s (workers × batch {rates}); {how}")


def _rate(rig: Rig, python: pathlib.Path, workers: int, batch: int, *, rows: int) -> float:
    """Return the forecasts a second of one setting with `rows` series in a request, median of the runs."""
    windows = np.random.default_rng(0).standard_normal((16, rows, WINDOW))
    bodies = [b'{"values": "' + base64.b64encode(window.tobytes()) + b'"}' for window in windows]
    in_flight = IN_FLIGHT if rows == 1 else 2 * workers
    with _litserve(rig, python, workers, batch) as address:

        def run(count: int) -> Run:
            found = rig.generator(http, address, "/predict", [bodies[k % 16] for k in range(count)], in_flight)
            least = rows * HORIZON * len(LEVELS) * 8
            if found.errors or min(map(len, found.samples.values())) < least:
                raise RuntimeError(f"LitServe failed: {found.errors[:1] or found.samples}")
            return found

        run(2 * in_flight)
        count = max(rig.scaled(int(run(4 * in_flight).rate * SECONDS)), 4 * in_flight)
        return rows * statistics.median(run(count).rate for _ in range(rig.runs))


@contextlib.contextmanager
def _litserve(rig: Rig, python: pathlib.Path, workers: int, batch: int) -> Iterator[str]:
    """Run LitServe; yields its address."""
    port = free_port()
    levels = [str(level) for level in LEVELS]
    fixed = [
        "-m",
        "tests.benchmarks.others.litserve_server",
        rig.folder / "bundle",
        "--port",
        port,
        "--levels",
        *levels,
    ]
    # A batch waits at most 2 ms: shorter than a step of the encoder takes, so that it costs nothing.
    command = [python, *fixed, "--workers", workers, "--batch", batch, "--wait", 0.002 if batch > 1 else 0.0]
    root = pathlib.Path(__file__).resolve().parents[2]
    log = rig.folder / f"litserve-{port}.log"
    with running(command, log, lambda: _healthy(port), {"PYTHONPATH": str(root)}):
        yield f"127.0.0.1:{port}"


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _words(workers: int, batch: int) -> str:
    return f"{workers} × {batch}"
