"""Wide files: rows made of lines, and what is refused."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from forecaster.config import DataConfig
from forecaster.data.report import inspect_frame
from forecaster.data.schema import read_frame
from forecaster.data.wide import following
from forecaster.data.windows import latest_segments
from forecaster.errors import DataError

HOUR = dt.timedelta(hours=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
M4 = '"V1","V2","V3","V4","V5"\n"H2","1","2.5","3","4"\n"H1","7","",9,\n"H10","5","6","",""\n'


def read(folder: Path, text: str, name: str = "wide.csv", **options: str) -> pl.DataFrame:
    (folder / name).write_text(text)
    return read_frame(DataConfig(path=str(folder / name), **options))  # type: ignore[arg-type]


def test_series_end_together_and_empty_cells_between_values_are_missing(tmp_path: Path) -> None:
    frame = read(tmp_path, M4)
    assert frame.schema == {"unique_id": pl.String, "ds": pl.Datetime("us", "UTC"), "y": pl.Float64}
    assert frame.rows() == [
        ("H1", EPOCH + HOUR, 7.0),
        ("H1", EPOCH + 2 * HOUR, None),
        ("H1", EPOCH + 3 * HOUR, 9.0),
        ("H10", EPOCH + 2 * HOUR, 5.0),
        ("H10", EPOCH + 3 * HOUR, 6.0),
        *(("H2", EPOCH + k * HOUR, y) for k, y in enumerate((1.0, 2.5, 3.0, 4.0))),
    ]
    config = DataConfig()
    assert not [f for f in inspect_frame(frame, config).findings if f.severity == "error"]
    series = latest_segments(frame, config.step_us, config.max_gap_steps)
    assert [one.start_us // config.step_us for one in series] == [1, 2, 0]


def test_other_names_have_to_be_said_and_the_step_is_the_configured_one(tmp_path: Path) -> None:
    text = "shop,first,second\na,1,2\nb,3,\n"
    with pytest.raises(DataError, match="has no columns"):
        read(tmp_path, text)
    frame = read(tmp_path, text, layout="wide", frequency="1d")
    assert frame.rows() == [
        ("a", EPOCH, 1.0),
        ("a", EPOCH + dt.timedelta(days=1), 2.0),
        ("b", EPOCH + dt.timedelta(days=1), 3.0),
    ]
    with pytest.raises(DataError, match="has no columns"):
        read(tmp_path, M4, layout="long")


def test_the_canonical_names_hold_whatever_the_columns_of_long_files_are_called(tmp_path: Path) -> None:
    frame = read(tmp_path, M4, id_column="meter", target_column="load")
    assert frame.columns == ["unique_id", "ds", "y"]


def test_what_follows_begins_after_the_last_time(tmp_path: Path) -> None:
    history = read(tmp_path, M4)
    actual = read(tmp_path, "V1,V2,V3\nH1,1,2\nH2,3,\n", "test.csv")
    step_us = DataConfig().step_us
    assert following(actual, history, step_us).rows() == [
        ("H1", EPOCH + 4 * HOUR, 1.0),
        ("H1", EPOCH + 5 * HOUR, 2.0),
        ("H2", EPOCH + 4 * HOUR, 3.0),
    ]


def test_a_header_longer_than_the_first_look_is_read(tmp_path: Path) -> None:
    n = 20_000
    text = ",".join(f'"V{k}"' for k in range(1, n + 1)) + "\nD1," + ",".join(["1.5"] * (n - 1)) + "\n"
    frame = read(tmp_path, text, frequency="1m")
    assert (frame.height, frame["y"].unique().to_list()) == (n - 1, [1.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("V1,V2,V3\na,1,2\nb,1,x\n", "line 3: y='x' is not a number"),
        ("V1,V2,V3\na,1,2\nb,1,2\nb,1,2\na,1,2\n", "line 4 names 'b' again"),
        ("V1,V2,V3\na,1,2\n,3,4\n", "line 3: unique_id=empty names no series"),
        ("V1,V2,V3\na,,\n", "has no rows"),
        ("V1,V2,V3\na,1,2,3\n", "line 2 has 4 fields, its header 3"),
        ("V1,V2,V3\na,1,inf\n", "1 infinite value"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        inspect_frame(read(tmp_path, text), DataConfig()).raise_for_errors()


def test_several_wide_files_are_not_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(M4)
    (tmp_path / "b.csv").write_text(M4)
    with pytest.raises(DataError, match="several wide files"):
        read_frame(DataConfig(path=str(tmp_path / "*.csv")))
