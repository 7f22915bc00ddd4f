"""Rows a second and peak memory of ingesting more rows than memory would hold: `python -m tests.benchmarks.ingest`.

For CSV and Parquet, and for several sizes: the same hourly fleet, for longer and longer, a month in a file. Each ingest
is a process of its own, whose peak is what the system says of it; a second one finds nothing new. Beside it stands what
the rows would take in memory as a frame, and the source's size on disk.
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
_SAY = "import resource, sys; print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def blocks(rows: int) -> Iterator[pl.DataFrame]:
    """Yield a fleet's rows, all series of some hours at a time."""
    rng = np.random.default_rng(1)
    ids = pl.Series("unique_id", [f"meter-{k:05d}" for k in range(SERIES)])
    for start in range(0, rows // SERIES, _HOURS):
        hours = pl.Series(1_356_998_400 + 3600 * np.arange(start, min(start + _HOURS, rows // SERIES)))
        frame = ids.to_frame().join(
            pl.from_epoch(hours, "s").dt.replace_time_zone("UTC").alias("ds").to_frame(), how="cross"
        )
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


def ingest(source: pathlib.Path, output: pathlib.Path) -> tuple[float, float, str]:
    """Ingest in a process of its own; return its seconds, its peak in MB and what it said."""
    options = [
        f"--ingest.sources=[{source}]",
        f"--ingest.output={output}",
        f"--data.past_covariates=[{','.join(COVARIATES)}]",
    ]
    code = f"from pipelines.__main__ import main; main(['ingest', *sys.argv[1:]])\n{_SAY}"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}", *options], check=True, capture_output=True, text=True
    )
    found = re.search(r"peak (\d+)", done.stdout)
    assert found is not None
    return time.monotonic() - began, int(found.group(1)) / 1024, done.stdout.splitlines()[0]


def main() -> None:
    """Measure, and print a line for each source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--millions", type=int, nargs="*", default=[1, 5, 20], help="of rows, a source of each kind for each"
    )
    chosen = parser.parse_args()
    print(f"{'source':<12}{'on disk':>10}{'as a frame':>12}{'seconds':>10}{'rows/s':>12}{'peak':>10}{'again':>9}")
    for kind in ("csv", "parquet"):
        for millions in chosen.millions:
            rows = millions * 1_000_000
            with tempfile.TemporaryDirectory() as folder:
                source, output = pathlib.Path(folder, f"source.{kind}"), pathlib.Path(folder, "dataset")
                write(source, rows)
                frame_mb = rows * (16 + 8 * (2 + len(COVARIATES))) / 2**20
                seconds, peak, said = ingest(source, output)
                assert said.startswith(f"{rows:,} new rows; "), said
                again, _, said = ingest(source, output)
                assert said.startswith("nothing new; "), said
                size = source.stat().st_size / 2**20
                print(
                    f"{millions:>3} M {kind:<7}{size:>7,.0f} MB{frame_mb:>9,.0f} MB{seconds:>10.1f}{rows / seconds:>12,.0f}"
                    f"{peak:>7,.0f} MB{again:>7.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
