"""Rows a second and peak memory of ingesting more rows than memory would hold: `python -m tests.benchmarks.ingest`.

For CSV and Parquet, and for several sizes: the same hourly fleet, for longer and longer, a file for each month. Each
ingest is a process of its own; a second one finds nothing new. Its memory is what it has for itself: pages of the
source that the system maps, and takes back when it pleases, are told apart. Beside it stands what the rows would take
as one frame.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import polars as pl

SERIES, COVARIATES = 1000, ("rain", "price")
_HOURS = 250  # of one block of a source
_HEAD = ("source", "on disk", "as a frame", "seconds", "rows/s", "memory", "and mapped", "again")


def blocks(rows: int) -> Iterator[pl.DataFrame]:
    """Yield a fleet's rows, all series of some hours at a time."""
    rng = np.random.default_rng(1)
    ids = pl.DataFrame({"unique_id": [f"meter-{k:05d}" for k in range(SERIES)]})
    for start in range(0, rows // SERIES, _HOURS):
        seconds = 1_356_998_400 + 3600 * np.arange(start, min(start + _HOURS, rows // SERIES))
        times = pl.DataFrame({"ds": pl.from_epoch(pl.Series(seconds), "s").dt.replace_time_zone("UTC")})
        frame = ids.join(times, how="cross")
        values = {name: rng.standard_normal(len(frame)).round(4) for name in ("y", *COVARIATES)}
        yield frame.with_columns(**values)


def write(path: pathlib.Path, rows: int) -> None:
    """Write the source, a block at a time."""
    if path.suffix == ".csv":
        with path.open("wb") as file:
            for k, block in enumerate(blocks(rows)):
                block.write_csv(file, include_header=k == 0)
    else:
        pl.concat([block.lazy() for block in blocks(rows)]).sink_parquet(path, row_group_size=_HOURS * SERIES)


def ingest(source: pathlib.Path, output: pathlib.Path) -> tuple[float, dict[str, float], str]:
    """Ingest in a process of its own; return its seconds, the peaks of its memory in MB and what it said."""
    settings = (
        f"ingest.sources=[{source}]",
        f"ingest.output={output}",
        f"data.past_covariates=[{','.join(COVARIATES)}]",
    )
    command = [sys.executable, "-m", "pipelines", "ingest", *(f"--{setting}" for setting in settings)]
    began, peaks = time.monotonic(), {"RssAnon": 0.0, "RssFile": 0.0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = pathlib.Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for name, size in re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB", status.read_text(), re.MULTILINE):
                peaks[name] = max(peaks[name], int(size) / 1024)
            time.sleep(0.02)
        seconds = time.monotonic() - began
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 0
    return seconds, peaks, said


def main() -> None:
    """Measure, and print a line for each source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="*", default=[1, 5, 20], help="of rows, for each kind of source")
    parser.add_argument("--kinds", nargs="*", default=["csv", "parquet"], help="of sources")
    chosen = parser.parse_args()
    print("".join(f"{word:>12}" for word in _HEAD))
    for kind in chosen.kinds:
        for millions in chosen.millions:
            with tempfile.TemporaryDirectory() as folder:
                print("".join(f"{word:>12}" for word in _figures(pathlib.Path(folder), kind, millions)), flush=True)


def _figures(folder: pathlib.Path, kind: str, millions: int) -> Iterator[str]:
    source, output, rows = folder / f"source.{kind}", folder / "dataset", millions * 1_000_000
    write(source, rows)
    seconds, peaks, said = ingest(source, output)
    assert said.startswith(f"{rows:,} new rows; "), said
    again, _, said = ingest(source, output)
    assert said.startswith("nothing new; "), said
    yield from (f"{millions} M {kind}", f"{source.stat().st_size / 2**20:,.0f} MB")
    yield from (
        f"{rows * (16 + 8 * (2 + len(COVARIATES))) / 2**20:,.0f} MB",
        f"{seconds:.1f}",
        f"{rows / seconds:,.0f}",
    )
    yield from (f"{peaks['RssAnon']:,.0f} MB", f"{peaks['RssFile']:,.0f} MB", f"{again:.1f} s")


if __name__ == "__main__":
    main()
