"""Ingesting files: what is new is added, what differs follows the rule, what is wrong changes nothing."""

import datetime as dt
import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from forecaster.config import Config, DataConfig, IngestConfig
from forecaster.data.manifest import Changes, Manifest
from forecaster.data.report import ROW
from forecaster.data.schema import read_frame
from forecaster.errors import DataError
from pipelines.ingest.folder import owned
from pipelines.ingest.sources import Checked
from pipelines.ingest.step import ingest
from pipelines.training.dataset import ingested, read_manifest
from tests.unit.pipelines.ingest.ingesting import DataSet, Row, frame, time

DAYS: list[Row] = [("a", hour, float(hour)) for hour in range(96)]


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path)


def contents(data_set: DataSet) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_set.output.glob("*") if path.name != "ingest.lock"}


def refusal(data_set: DataSet, *frames: pl.DataFrame, **changed: str) -> str:
    """Return the one line with which frames are refused; the data set is as it was then."""
    before = contents(data_set)
    with pytest.raises(DataError) as caught:
        data_set.take(*frames, **changed)
    assert contents(data_set) == before
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_bundled_weather_becomes_a_data_set_by_months(tmp_path: Path) -> None:
    config = Config(ingest=IngestConfig(output=str(tmp_path / "dataset")))
    result = ingest(config)
    assert result.line() == (
        "156,690 new rows; data set: 156,690 rows of 18 series, 2013-01-01T06:00:00Z to 2013-12-30T23:00:00Z "
        f"(hash {result.manifest.content_hash[:12]})"
    )
    assert [file.partition for file in result.manifest.files] == [f"2013-{month:02d}" for month in range(1, 13)]
    whole = read_frame(DataConfig())
    assert read_frame(ingested(config).data).equals(whole)
    assert read_frame(DataConfig(path=str(tmp_path / "dataset" / "manifest.json"))).equals(whole)
    assert read_manifest(config) == result.manifest
    for file in result.manifest.files:
        held = pl.read_parquet(tmp_path / "dataset" / file.name)
        assert held.equals(held.sort("unique_id", "ds"))
        assert (len(held), held["ds"].min(), held["ds"].max()) == (file.rows, file.first, file.last)
        assert held["ds"].dt.strftime("%Y-%m").unique().to_list() == [file.partition]


def test_the_manifest_survives_being_written(tmp_path: Path) -> None:
    covariates = {"past_covariates": ("rain",), "static_covariates": ("area",)}
    data_set = DataSet(tmp_path, covariates)
    made = data_set.take(frame([("a", 0, 1.0, 2.0, 3.0)], "rain", "area")).manifest
    assert Manifest.read(data_set.output / "manifest.json") == made
    columns = {"unique_id": "id", "ds": "time", "y": "target", "rain": "past", "area": "static"}
    assert made.columns == columns


def test_only_partitions_that_change_are_written_anew(data_set: DataSet) -> None:
    data_set.take(frame(DAYS[:60]))  # two days of January, and half of one of February
    january, february = (file.name for file in read_manifest(data_set.config()).files)
    result = data_set.take(frame(DAYS[50:96]))
    assert result.changes == Changes(new=36, known=10)
    names = data_set.names()
    assert january in names
    assert february not in names
    assert len(names) == 5  # two months, the series, the manifest, the lock
    assert data_set.rows() == DAYS


def test_unchanged_sources_are_not_read_again(data_set: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    config = data_set.config(data_set.write(frame(DAYS)), data_set.write(frame([("b", 0, 1.0)])))
    first = ingest(config)
    written = (data_set.output / "manifest.json").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(pl.LazyFrame, "collect_batches", None)  # nothing is read
        second = ingest(config)
    assert second.line().startswith("nothing new; data set: 97 rows of 2 series")
    assert (second.manifest, second.has_changed) == (first.manifest, False)
    assert (data_set.output / "manifest.json").stat().st_ino == written
    data_set.write(frame([("b", 0, 1.0), ("b", 1, 2.0)]), "source-002.parquet")
    assert ingest(config).changes == Changes(new=1, known=1)  # the other one is not read


def test_files_of_a_glob_come_in_the_order_of_their_names(data_set: DataSet) -> None:
    for day in (1, 0, 2):
        data_set.write(frame([("a", 0, float(day)), ("a", day + 1, 0.0)]), f"day-{day}.csv")
    pattern = str(data_set.folder / "day-*.csv")
    result = ingest(data_set.config(pattern))
    assert data_set.rows() == [("a", 0, 2.0), ("a", 1, 0.0), ("a", 2, 0.0), ("a", 3, 0.0)]
    assert result.changes == Changes(new=4, corrected=1)
    data_set.write(frame([("a", 9, 9.0)]), "day-3.csv")
    assert ingest(data_set.config(pattern)).changes == Changes(new=1)


def test_late_values_are_added_and_missing_ones_take_nothing_away(data_set: DataSet) -> None:
    data_set.take(frame([("a", 5, 5.0), ("a", 6, None)]))
    result = data_set.take(frame([("a", 1, 1.0), ("a", 5, None), ("a", 6, 6.0)]))
    assert result.line().startswith("1 new row, 1 completed, 1 known already; ")
    assert data_set.rows() == [("a", 1, 1.0), ("a", 5, 5.0), ("a", 6, 6.0)]


@pytest.mark.parametrize(
    ("rule", "told", "held"), [("replace", "corrected", 7.0), ("keep", "other values not taken", 5.0)]
)
def test_corrected_values_follow_the_rule(data_set: DataSet, rule: str, told: str, held: float) -> None:
    data_set.take(frame([("a", 5, 5.0), ("a", 6, 6.0)]))
    result = data_set.take(frame([("a", 5, 7.0), ("a", 6, 6.0)]), corrections=rule)
    assert result.line().startswith(f"0 new rows, 1 {told}, 1 known already; ")
    assert (result.manifest.changes.corrected, result.manifest.corrections) == (1, rule)
    assert result.has_changed == (rule == "replace")
    assert data_set.rows() == [("a", 5, held), ("a", 6, 6.0)]


def test_corrected_values_can_be_refused(data_set: DataSet) -> None:
    data_set.take(frame([("a", 5, 5.0), ("a", 6, 6.0)]))
    assert refusal(data_set, frame([("a", 5, 7.0), ("b", 0, 0.0)]), corrections="refuse") == (
        "1 known value differs, such as a at 2013-01-30T05:00:00Z (y 5.0, then 7.0): "
        "set ingest.corrections to replace or keep"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("a", 0, 1.0), ("a", 1, 1.0), ("a", 1, 2.0)],
            "the data cannot be used as it is: 1 repeated time (with different values in one source): "
            "a at 2013-01-30T01:00:00Z; keep one row for each series and time",
        ),
        ([("a", 0, 1.0), ("a", 1, float("inf"))], "1 infinite value: a at 2013-01-30T01:00:00Z"),
        ([("a", 0, 1.0), ("a", 1, -1e200)], "1 value beyond ±1e+150: a at 2013-01-30T01:00:00Z; no server takes them"),
        ([("a", 0, 1.0), ("a", 1, 1.0), ("a", 1.5, 2.0)], "1 time off the grid: a at 2013-01-30T01:30:00Z"),
        ([("a", 2 * k, 1.0) for k in range(20)], "the data looks like 2h: set --data.frequency 2h"),
        ([("", 0, 1.0)], "row 1: unique_id=empty names no series"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(data_set: DataSet, rows: list[Row], message: str) -> None:
    assert message in refusal(data_set, frame(DAYS[:3]), frame(rows))
    assert data_set.names() == {"ingest.lock"}


def test_a_wrong_source_leaves_the_data_set_as_it_was(data_set: DataSet) -> None:
    data_set.take(frame(DAYS))
    assert "repeated time" in refusal(data_set, frame([("a", 90, 7.0), ("a", 95, 1.0), ("a", 95, 2.0)]))
    wrong = data_set.folder / "wrong.csv"
    wrong.write_text("unique_id,ds,y\na,2013-02-05T00:00:00Z,1\na,2013-02-05T01:00:00Z,one\n")
    with pytest.raises(DataError, match=r"wrong\.csv line 3: y='one' is not a number"):
        ingest(data_set.config(str(wrong)))
    assert data_set.rows() == DAYS


def test_a_series_keeps_its_grid_from_one_ingest_to_the_next(data_set: DataSet) -> None:
    data_set.take(frame([("a", 0.5, 1.0)]))
    assert "1 time off the grid: a at 2013-03-02T00:00:00Z" in refusal(data_set, frame([("a", 24.0 * 31, 1.0)]))
    assert data_set.take(frame([("a", 24 * 31 + 0.5, 1.0)])).changes.new == 1


def test_times_with_and_without_an_offset_far_apart_are_refused(tmp_path: Path) -> None:
    rows = [f"s{k},2013-01-31T05:00:00{'Z' if k >= 262_144 else ''},1" for k in range(263_000)]
    path = tmp_path / "mixed.csv"
    path.write_text("\n".join(["unique_id,ds,y", *rows]))
    with pytest.raises(DataError, match=r"ds mixes times with an offset .*line 262146.* and without .*line 2\)"):
        ingest(DataSet(tmp_path).config(str(path)))
    checked = Checked("the answer", "row", DataConfig())
    batches = [frame([("a", k, 1.0)]).with_columns(pl.col("ds").dt.to_string("iso:strict")) for k in range(2)]
    checked.part(batches[0].with_row_index(ROW, offset=1))
    with pytest.raises(DataError, match=r"offset \(.*Z?, the answer row 1\) and without \(.*, the answer row 2\)"):
        checked.part(batches[1].with_columns(pl.col("ds").str.head(19)).with_row_index(ROW, offset=2))


def test_static_covariates_are_kept_beside_the_rows(tmp_path: Path) -> None:
    data_set = DataSet(tmp_path, {"static_covariates": ("area",), "static_categories": ("region",)})
    north = frame([("a", 0, 1.0, 3.0), ("b", 0, 1.0, None)], "area").with_columns(region=pl.lit("north"))
    data_set.take(north)
    file = data_set.output / read_manifest(data_set.config()).files[0].name
    assert pl.read_parquet(file).columns == ["unique_id", "ds", "y"]
    assert data_set.rows() == [("a", 0, 1.0, 3.0, "north"), ("b", 0, 1.0, None, "north")]
    south = frame([("a", 1, 1.0, None), ("b", 1, 1.0, 4.0)], "area").with_columns(region=pl.lit("south"))
    result = data_set.take(south)
    assert result.changes == Changes(new=2, series=2)
    assert "static covariates of 2 series corrected" in result.line()
    assert data_set.rows()[1:3] == [("a", 1, 1.0, 3.0, "south"), ("b", 0, 1.0, 4.0, "south")]
    both = pl.concat([north, south])
    assert "region of a is 'north' in one row and 'south' in another of the same source" in refusal(data_set, both)


def test_new_columns_are_read_of_all_sources_again(tmp_path: Path) -> None:
    rows = frame([("a", hour, 1.0, hour / 2) for hour in range(60)], "rain")
    plain, rainy = DataSet(tmp_path), DataSet(tmp_path, {"past_covariates": ("rain",)})
    path = plain.write(rows)
    ingest(plain.config(path))
    result = ingest(rainy.config(path))
    assert result.changes == Changes(completed=60)
    assert rainy.frame().select(rows.columns).equals(rows.sort("unique_id", "ds"))
    assert ingest(plain.config(path)).manifest.columns["rain"] == "past"  # what was there stays
    static = DataSet(tmp_path, {"static_covariates": ("rain",)})
    with pytest.raises(DataError, match=r"'rain' is of the kind 'past' in .*, not 'static'"):
        ingest(static.config(path))


def test_ends_of_series_travel_along(tmp_path: Path) -> None:
    data_set = DataSet(tmp_path, {"end_column": "over"})
    rows = frame([("a", 0, 1.0), ("a", 1, 2.0)]).with_columns(over=pl.col("y") == 2.0)
    data_set.take(rows)
    assert data_set.frame().equals(rows)


@pytest.mark.parametrize(("partition", "names"), [("day", ["2013-01-30", "2013-02-01"]), ("year", ["2013"])])
def test_partitions_are_of_the_configured_length(tmp_path: Path, partition: str, names: list[str]) -> None:
    data_set = DataSet(tmp_path, partition=partition)
    result = data_set.take(frame([("a", 0, 1.0), ("a", 48, 2.0)]))
    assert [file.partition for file in result.manifest.files] == names
    with pytest.raises(DataError, match=f"has a file for each {partition}: set ingest.partition"):
        data_set.take(frame(DAYS), partition="month")
    slower = DataSet(tmp_path, {"frequency": "2h"}, partition=partition)
    with pytest.raises(DataError, match="is a data set of 1h"):
        slower.take(frame(DAYS))
    with pytest.raises(DataError, match=r"is of 1h: set --data\.frequency 1h"):
        slower.frame()


def test_what_is_not_in_the_manifest_is_neither_read_nor_kept(data_set: DataSet) -> None:
    data_set.take(frame(DAYS))
    file = data_set.output / read_manifest(data_set.config()).files[0].name
    for name in ("2013-01-0123456789abcdef.parquet", "2013-01-0123456789abcdef.parquet.partial", "mine.parquet"):
        (data_set.output / name).write_bytes(file.read_bytes())
    (data_set.output / "scratch").mkdir()
    assert data_set.rows() == DAYS
    assert ingest(data_set.config(data_set.write(frame(DAYS[:1])))).changes.known == 1
    assert "mine.parquet" in data_set.names()  # not ours
    assert len(data_set.names()) == 6


def test_a_data_set_that_is_replaced_while_it_is_read(data_set: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has an old manifest finds its files gone, and reads the new one."""
    data_set.take(frame(DAYS[:10]))
    read, replaced = Manifest.read, []

    def reading(path: Path) -> Manifest:
        found = read(path)
        if not replaced:
            replaced.append(True)
            data_set.take(frame(DAYS))
        return found

    monkeypatch.setattr(Manifest, "read", reading)
    assert data_set.rows() == DAYS
    monkeypatch.undo()
    (data_set.output / read_manifest(data_set.config()).files[0].name).unlink()
    with pytest.raises(DataError, match="lists a file that is not there"):
        data_set.rows()


def test_two_at_once_wait_for_each_other(data_set: DataSet) -> None:
    said = io.StringIO()
    options = ["--ingest.output", str(data_set.output), "--ingest.sources", f"[{data_set.write(frame(DAYS))}]"]
    command = [sys.executable, "-m", "pipelines", "ingest", *options]
    with owned(data_set.output, said):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert other.stderr is not None
        assert other.stderr.readline() == f"another ingest writes {data_set.output}: waiting for it\n"
        assert other.poll() is None
        assert data_set.names() == {"ingest.lock"}
    out, _ = other.communicate(timeout=180)
    assert out.startswith("96 new rows; data set: 96 rows of 1 series, ")
    assert said.getvalue() == ""
    assert data_set.rows() == DAYS


def test_sources_that_cannot_be_used_are_told_in_a_line(data_set: DataSet) -> None:
    wide = data_set.folder / "wide.csv"
    wide.write_text("V1,V2,V3\na,1,2\n")
    data_set.take(frame(DAYS))
    for source, message in (
        (str(wide), "wide.csv is a wide file, whose times are made up"),
        (str(data_set.folder / "no.csv"), "no such file: ingest.sources="),
        (str(data_set.output), "is a data set already"),
        (str(data_set.write(frame([]))), "has no rows below its column names"),
    ):
        with pytest.raises(DataError, match=message):
            ingest(data_set.config(source))


def test_a_file_url_is_a_file(data_set: DataSet) -> None:
    path = data_set.write(frame(DAYS))
    assert ingest(data_set.config(f"file://{path}")).changes.new == 96
    assert ingest(data_set.config(path)).line().startswith("nothing new; ")


def test_a_changed_file_is_told_by_size_time_or_inode(data_set: DataSet) -> None:
    path = Path(data_set.write(frame(DAYS[:2]), "rows.csv"))
    ingest(data_set.config(str(path)))
    status = path.stat()
    path.write_text(path.read_text().replace("1.0", "8.0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert path.stat().st_size == status.st_size
    assert ingest(data_set.config(str(path))).changes == Changes(corrected=1, known=1)
    assert data_set.rows()[1] == ("a", 1, 8.0)
    assert time(1) == dt.datetime(2013, 1, 30, 1, tzinfo=dt.UTC)
