"""`make bench`: what serving costs, and what others need for the same. Prints a table and writes `build/bench.json`.

`python -m tests.benchmarks recovery` measures one group alone. Every figure is a ratio or a percentile, the median of
several runs, beside its bar; the status is 0 whether the bars hold or not, and 1 if a group broke.
"""

import argparse
import importlib
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Sequence

from tests.benchmarks.figures import Figure, print_table, write_json

GROUPS = ("model_time", "bulk", "late", "stream", "million", "recovery", "swap", "stateless", "triton")
PEERS = ("stateless", "triton")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help=f"left out: all of {', '.join(GROUPS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the full number of series (1.0)")
    parser.add_argument("--runs", type=int, default=5, help="how often everything is repeated (5)")
    parser.add_argument("--no-peers", action="store_true", help="leave the other servers out")
    parser.add_argument("--output", type=pathlib.Path, help="build/bench.json, or build/bench-GROUP.json for groups")
    arguments = parser.parse_args()
    names = "-".join(["bench", *arguments.groups])
    groups = arguments.groups or [name for name in GROUPS if not (arguments.no_peers and name in PEERS)]
    figures, broken = measure(groups, arguments.scale, arguments.runs)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {arguments.runs} runs")
    if arguments.scale != 1.0:
        print(f"--scale {arguments.scale:g}: these are not the full sizes, and no figures to quote")
    print_table(figures)
    write_json(figures, arguments.output or pathlib.Path("build") / f"{names}.json", arguments.scale)
    return 1 if broken else 0


def measure(groups: Sequence[str], scale: float, runs: int) -> tuple[list[Figure], bool]:
    """Return the figures of the groups, and whether one of them broke; the others are measured all the same."""
    from tests.benchmarks.rig import open_rig  # not before the options are read: torch takes seconds

    figures: list[Figure] = []
    broken = False
    with open_rig(scale=scale, runs=runs) as rig:
        for name in groups:
            group = importlib.import_module(f"tests.benchmarks.{name}")
            began = time.monotonic()
            try:
                found = group.measure(rig)
            except Exception as error:  # noqa: BLE001 -- the other groups are measured all the same
                traceback.print_exc()
                broken = True
                found = [bar.missing(f"{type(error).__name__}: {error}".splitlines()[0][:200]) for bar in group.BARS]
            figures += found
            print(f"{name}: {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
            print_table(found)
    return figures, broken


if __name__ == "__main__":
    sys.exit(main())
