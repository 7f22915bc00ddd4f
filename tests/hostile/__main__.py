"""`make hostile`: what hostile clients make a polite one wait, and what they cost the server. Prints a table.

Each row has a server of its own on loopback and a polite client in a process of its own. `python -m tests.hostile
columns storm` runs the rows whose names hold one of these words, and the undisturbed one. Status 1: a bar is missed.
"""

import argparse
import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.benchmarks.rig import Rig, open_rig
from tests.hostile.attacks import Row, rows
from tests.hostile.polite import Polite, Waits
from tests.integration.conftest import Server
from tests.integration.nursery import Nursery

MORE_WAIT_SECONDS = 0.1  # than undisturbed
MEMORY_BYTES = 512 << 20  # beyond what the idle server has: twice `serving.max_request_memory_bytes`
DRAIN_SECONDS, END_SECONDS = 5.0, 2.0  # of requests, and of everything after them
_SETTLE_SECONDS, _GIVE_UP_SECONDS = 1.0, 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table; see `show`."""

    row: Row
    said: str
    seconds: float
    waits: Waits
    before: int
    peak: int
    after: int
    log_bytes: int
    end_seconds: float

    def misses(self, undisturbed: Waits) -> list[str]:
        """Return the bars that it misses."""
        found = []
        if self.waits.longest > undisturbed.longest + MORE_WAIT_SECONDS:
            found.append("wait")
        if self.peak > self.before + MEMORY_BYTES:
            found.append("memory")
        if self.end_seconds > DRAIN_SECONDS + END_SECONDS:
            found.append("end")
        if self.waits.failed:
            found.append("errors")
        return found


def main() -> int:
    """Run all rows, or some, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("words", nargs="*", help="of the rows' names; all rows without any")
    words = parser.parse_args().words
    nothing, *others = rows()
    chosen = [row for row in others if not words or any(word in row.name for word in words)]
    print(
        f"{'':38} {'MB':>5} {'s':>6} {'p99 ms':>6} {'longest':>7} {'MB before, peak, after':>23} {'log KB':>6} "
        f"{'end s':>5}"
    )
    missed = 0
    with open_rig(scale=1, runs=1) as rig, contextlib.closing(Nursery()) as nursery:
        rig.servers.nursery = nursery
        undisturbed = measure(rig, nothing).waits  # the first server may have to compile
        undisturbed = show(measure(rig, nothing), undisturbed).waits
        for row in chosen:
            missed += bool(show(measure(rig, row), undisturbed).misses(undisturbed))
    print(
        f"bars: longest wait at most {MORE_WAIT_SECONDS * 1000:.0f} ms more than undisturbed, memory at most "
        f"{MEMORY_BYTES >> 20} MB more than before, the end at most {DRAIN_SECONDS + END_SECONDS:.0f} s after SIGTERM "
        f"(drain_seconds={DRAIN_SECONDS:.0f}), no error for the polite client: {missed} of {len(chosen)} rows miss one"
    )
    return int(missed > 0)


def measure(rig: Rig, row: Row) -> Outcome:
    """Run one row against a server of its own."""
    state = f"state-{time.monotonic_ns()}"
    with (
        rig.serving(f"--serving.drain_seconds={DRAIN_SECONDS}", state=state) as server,
        Polite(server.address) as polite,
        contextlib.ExitStack() as left,
    ):
        time.sleep(_SETTLE_SECONDS)
        polite.waits()
        before = _memory(server, "VmRSS")
        _forget_peak(server)
        began = time.perf_counter()
        said = row.attack(server.address, left)
        seconds = time.perf_counter() - began
        time.sleep(_SETTLE_SECONDS)
        waits = polite.waits()
        peak, after = _memory(server, "VmHWM"), _memory(server, "VmRSS")
        return Outcome(row, said, seconds, waits, before, peak, after, server.log.stat().st_size, _end(server))


def _end(server: Server) -> float:
    """Ask the server to end and return how long that takes; infinite if it has to be killed."""
    began = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(_GIVE_UP_SECONDS)
    except subprocess.TimeoutExpired:
        return float("inf")
    return time.perf_counter() - began


def _memory(server: Server, field: str) -> int:
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def _forget_peak(server: Server) -> None:
    pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def show(outcome: Outcome, undisturbed: Waits) -> Outcome:
    """Print a row of the table and return it."""
    size, misses = outcome.row.num_bytes / 1e6, outcome.misses(undisturbed)
    memory = " ".join(f"{number >> 20:7,}" for number in (outcome.before, outcome.peak, outcome.after))
    print(
        f"{outcome.row.name:38} {size:5.1f} {outcome.seconds:6.2f} {outcome.waits.p99 * 1000:6.1f} "
        f"{outcome.waits.longest * 1000:7.1f} {memory} {outcome.log_bytes / 1000:6.1f} {outcome.end_seconds:5.1f} "
        f"{'misses ' + ', '.join(misses) if misses else 'holds':14} {outcome.said}",
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    sys.exit(main())
