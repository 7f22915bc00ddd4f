"""From `kill -9` to SERVING: 100,000 series with snapshots, and 1,000,000 observations journaled behind them."""

import re
import statistics
import time

from tests.benchmarks.figures import Bar, Figure, spread
from tests.benchmarks.messages import Fleet, observe
from tests.benchmarks.rig import Rig, is_serving, setting, stop

SERIES, HOURS = 100_000, 10
BARS = (Bar("recovery after kill -9: 100,000 series, 1,000,000 observations since the snapshot", "s", 30.0, "<"),)
_STATE = "recovery"


def measure(rig: Rig) -> list[Figure]:
    """Return the time from the start of the process to SERVING; it is killed again at once, so that runs are alike."""
    fleet = Fleet(rig.scaled(SERIES))
    options = setting("snapshot_seconds", 86_400)  # no snapshot between the observations and the kill
    with rig.serving(*options, state=_STATE) as server:
        observe(rig.generator, server.address, fleet.tick(2))
        stop(server)  # all states are written
    with rig.serving(*options, state=_STATE) as server:
        observe(rig.generator, server.address, fleet.tick(HOURS))
        server.kill()
    seconds, replayed = [], []
    for _ in range(rig.runs):
        began = time.monotonic()
        with rig.serving(*options, state=_STATE) as server:
            assert is_serving(server.address)
            seconds.append(time.monotonic() - began)
            server.kill()
            replayed.append(_replayed(server.log.read_text()))
    wanted = fleet.size * HOURS
    unless = "" if min(replayed) >= wanted else f"only {min(replayed):,} of {wanted:,} observations were replayed"
    note = f"{fleet.size:,} series, {max(replayed):,} rows replayed, with the process's start; {spread(seconds)}"
    return [BARS[0].met_by(statistics.median(seconds), note, unless=unless)]


def _replayed(log: str) -> int:
    """Return the observations that a server says it has replayed, -1 if it does not say."""
    found = re.search(r"([\d,]+) observations replayed", log)
    return int(found.group(1).replace(",", "")) if found else -1
