"""A stateful peer: Triton's sequence batcher with a GRU of the same size in its Python backend, on the same cores.

Its `tritonserver` comes from the wheel `nvidia-pytriton`. Each series is a sequence, each step a request of it, sent
alone over a stream as ours is; with many in flight as unary calls and over a stream, as it answers faster (2.51
sometimes crashes when many share one). Of the settings in `SETTINGS` it gets the best figure of each kind. It keeps
nothing on disk, and its model computes less than ours (see `triton_model`).

Where it is not installed, the other side are figures of Triton 2.51 that were measured before on two such cores with
the load generator beside it.
"""

import pathlib
import statistics
from dataclasses import dataclass

from tests.benchmarks.figures import Bar, Figure, percentile
from tests.benchmarks.load import Plan, Run, stream, unary
from tests.benchmarks.others.processes import NotInstalledError, python_of
from tests.benchmarks.others.triton_server import requests, tritonserver
from tests.benchmarks.rig import Rig
from tests.benchmarks.stream import IN_FLIGHT, SECONDS, paces
from tests.benchmarks.ticks import SERIES, tick_rate

SERVICE = "/inference.GRPCInferenceService/"
MARK = b"\x1a\x09#"  # an answer's id: field 3, 9 bytes, # and 8 digits
BULK_IN_FLIGHT = (256, 1024)
SETTINGS = ((1, 64), (2, 64), (1, 512))  # instances, largest batch
BARS = (
    Bar("one message per step, alone: p50 ÷ Triton's", "×", 1.0, "<"),
    Bar(f"one message per step, {IN_FLIGHT} in flight: rate ÷ Triton's", "×", 1.0, ">"),
    Bar("bulk, a tick of 10,000 series with forecasts: rate ÷ Triton's", "×", 10.0, "≥"),
)


@dataclass(frozen=True, slots=True)
class Theirs:
    """What Triton does; medians of the runs.

    Args:
        alone_ms: p50 with one request in flight, milliseconds.
        rate: requests a second with 64 in flight.
        p99_ms: their p99, milliseconds.
        bulk: requests a second with as many in flight as suits it best.
        how: the server, and the best settings of each kind.
    """

    alone_ms: float
    rate: float
    p99_ms: float
    bulk: float
    how: str


KNOWN = Theirs(2.08, 3834.0, 28.0, 3834.0, "Triton 2.51 as measured before, not in this run")


def measure(rig: Rig) -> list[Figure]:
    """Return our figures in proportion to Triton's, one right after the other."""
    try:
        theirs = best(rig)
    except NotInstalledError as error:
        theirs = KNOWN
        print(f"triton: {error}; compared with the known figures")
    ours = paces(rig, "triton-ours")
    bulk, how = tick_rate(rig, "triton-bulk")
    return [
        BARS[0].met_by(
            ours.alone_ms / theirs.alone_ms, f"{ours.alone_ms:.2f} ÷ {theirs.alone_ms:.2f} ms; {theirs.how}"
        ),
        BARS[1].met_by(
            ours.rate / theirs.rate,
            f"{ours.rate:,.0f} ÷ {theirs.rate:,.0f} /s, p99 {ours.rate_p99_ms:.1f} and {theirs.p99_ms:.1f} ms; "
            f"{ours.generator}",
        ),
        BARS[2].met_by(bulk / theirs.bulk, f"{bulk:,.0f} ÷ {theirs.bulk:,.0f} /s; {how}"),
    ]


def best(rig: Rig) -> Theirs:
    """Return the best figures of each kind over all settings."""
    python = python_of("triton-venv")
    begin, go_on = requests(python, SERIES)
    found = [_one(rig, python, (begin, go_on), *setting) for setting in SETTINGS]
    rate = max(found, key=lambda one: one.rate)
    how = "; ".join(f"instances {s[0]}, batch {s[1]}: {x.how}" for s, x in zip(SETTINGS, found, strict=True))
    alone_ms, bulk = min(one.alone_ms for one in found), max(one.bulk for one in found)
    return Theirs(alone_ms, rate.rate, rate.p99_ms, bulk, f"Triton 2.51, {how}")


def _one(rig: Rig, python: pathlib.Path, sent: tuple[list[bytes], list[bytes]], instances: int, batch: int) -> Theirs:
    """Measure one setting; what may end the server comes last."""
    begin, go_on = sent
    folder = rig.folder / f"triton-{instances}-{batch}"
    with tritonserver(folder, python, instances, batch) as address:

        def calls(requests: list[bytes], in_flight: int) -> Run:
            return _checked(rig.generator(unary, address, [SERVICE + "ModelInfer"], requests, Plan(in_flight)))

        def streamed(requests: list[bytes], in_flight: int) -> Run:
            return rig.generator(stream, address, SERVICE + "ModelStreamInfer", requests, Plan(in_flight), MARK)

        warm = calls(begin, IN_FLIGHT)
        count = min(max(rig.scaled(int(warm.rate * SECONDS)), 200), SERIES)
        alone = [percentile(_checked(streamed(go_on[: count // 4], 1)).latencies, 50) for _ in range(rig.runs)]
        full = [calls(go_on[:count], IN_FLIGHT) for _ in range(rig.runs)]
        bulk = {k: statistics.median(calls(go_on[:count], k).rate for _ in range(rig.runs)) for k in BULK_IN_FLIGHT}
        shared = [streamed(go_on[:count], IN_FLIGHT)]
        while not shared[-1].errors and len(shared) < rig.runs:
            shared.append(streamed(go_on[:count], IN_FLIGHT))
    crashed = ", ended when 64 shared a stream" if shared[-1].errors else ""
    if not crashed:
        full = max(full, shared, key=lambda runs: statistics.median(run.rate for run in runs))
    rate = statistics.median(one.rate for one in full)
    p99_ms = 1e3 * statistics.median(percentile(one.latencies, 99) for one in full)
    alone_ms = 1e3 * statistics.median(alone)
    how = f"{alone_ms:.2f} ms, {rate:,.0f}/s, " + ", ".join(f"{v:,.0f}/s at {k}" for k, v in bulk.items())
    return Theirs(alone_ms, rate, p99_ms, max(rate, *bulk.values()), how + crashed)


def _checked(run: Run) -> Run:
    if run.errors:
        raise RuntimeError(f"Triton failed: {run.errors[0]}")
    return run
