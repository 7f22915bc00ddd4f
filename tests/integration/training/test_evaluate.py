"""`forecaster evaluate` on long and wide files: figures worked out by hand, and what is refused."""

import json
import math
import pathlib

import polars as pl
import pytest

from forecaster.cli import main
from forecaster.config import TrackingConfig
from forecaster.model.bundle import Bundle
from tests.integration.conftest import wander

Registered = tuple[TrackingConfig, Bundle]  # horizon 6, season 12, 12 values or more

A = [10.0] * 12 + [12.0] * 11 + [14.0]
B = [*range(1, 13), 3, 4, 5, 6]
TRAIN = [["A", *A], ["B", *B]]
TEST = [["A", 13, 15], ["B", 7, 8]]


def write_wide(path: pathlib.Path, lines: list[list[object]]) -> pathlib.Path:
    width = max(map(len, lines))
    rows = [[f"V{k}" for k in range(1, width + 1)], *(line + [""] * (width - len(line)) for line in lines)]
    path.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows))
    return path


def evaluate(registered: Registered, folder: pathlib.Path, *options: object) -> dict:
    output = folder / "out.json"
    fixed = ["evaluate", f"--tracking.uri={registered[0].uri}", f"--output={output}"]
    assert main([*fixed, *map(str, options)]) == 0
    found: dict = json.loads(output.read_text())
    return found


def test_the_baselines_of_a_wide_file_are_those_of_a_pencil(
    registered: Registered, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = write_wide(tmp_path / "train.csv", TRAIN), write_wide(tmp_path / "test.csv", TEST)
    wide = ("--data.path", train, "--actual", test, "--origins", "last", "--by_series")
    found = evaluate(registered, tmp_path, *wide)
    unit = (11 * 2 + 4) / 12  # of A: 11 changes by 2, the last by 4; B's are all 2
    expected = {
        "seasonal_naive": {
            "mase": (2 / unit + 2 / 2) / 2,  # A: 12 and 12 for 13 and 15; B: 5 and 6 for 7 and 8
            "smape": (100 * (1 / 25 + 3 / 27) + 100 * (2 / 12 + 2 / 14)) / 2,
            "mae": (2 + 2) / 2,
            "rmse": (math.sqrt((1 + 9) / 2) + 2) / 2,
        },
        "naive": {
            "mase": (1 / unit + 1.5 / 2) / 2,  # A: 14 and 14; B: 6 and 6
            "smape": (100 * (1 / 27 + 1 / 29) + 100 * (1 / 13 + 2 / 14)) / 2,
            "mae": (1 + 1.5) / 2,
            "rmse": (1 + math.sqrt((1 + 4) / 2)) / 2,
        },
    }
    expected["naive2"] = expected["naive"] | {"owa": 1.0}  # fewer than three seasons: nothing to take off
    ratios = [expected["seasonal_naive"][name] / expected["naive"][name] for name in ("smape", "mase")]
    expected["seasonal_naive"]["owa"] = sum(ratios) / 2
    for row, figures in expected.items():
        assert {name: found["metrics"][row][name] for name in figures} == pytest.approx(figures), row
    model = found["metrics"]["model"]
    assert model["owa"] == pytest.approx(
        (model["smape"] / expected["naive"]["smape"] + model["mase"] / expected["naive"]["mase"]) / 2
    )
    assert {"pinball", "wql", "msis", "coverage_95"} <= model.keys()
    assert (found["origins"], found["series"]) == (2, 2)
    assert found["first_time"] == "1970-01-02T00:00:00+00:00"
    by_series = {one["unique_id"]: one for one in found["by_series"]["seasonal_naive"]}
    assert (by_series["A"]["pairs"], by_series["A"]["mae"], by_series["B"]["mase"]) == pytest.approx((2, 2, 1))
    assert "wql" in found["by_series"]["model"][0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("forecaster version 1, 2 origins of 2 series, forecasts of 1970-01-02T00:00:00Z on")
    assert lines[1].split()[:8] == ["MASE", "sMAPE", "OWA", "RMSE", "MAE", "pinball", "WQL", "MSIS"]
    cells = [line[15:].split() for line in lines[2:]]
    assert [line[:15].strip() for line in lines[2:]] == ["model", "seasonal naive", "naive", "Naive2"]
    assert cells[0][:2] == [f"{model['mase']:.3f}", f"{model['smape']:.3f}"]
    assert cells[1] == ["0.962", "23.032", "1.584", "2.118", "2.000", *"-------"]


def test_long_files_in_one_piece_or_two_score_alike(registered: Registered, tmp_path: pathlib.Path) -> None:
    frame = wander(3, 200)
    frame.write_parquet(tmp_path / "all.parquet")
    cut = frame["ds"].unique().sort()[-6]
    frame.filter(pl.col("ds") < cut).write_csv(tmp_path / "train.csv")
    frame.filter(pl.col("ds") >= cut).write_csv(tmp_path / "test.csv")
    whole = evaluate(registered, tmp_path, "--data.path", tmp_path / "all.parquet", "--origins", "last")
    assert whole["origins"] == 3
    pieces = ("--data.path", tmp_path / "train.csv", "--actual", tmp_path / "test.csv")
    assert evaluate(registered, tmp_path, *pieces, "--origins", "last") == whole
    rolling = evaluate(registered, tmp_path, *pieces)
    assert rolling["first_time"] == whole["first_time"]
    assert 15 <= rolling["origins"] <= 18  # the last steps' values are missing in some
    since = ("--data.path", tmp_path / "all.parquet", "--since", cut.isoformat())
    assert evaluate(registered, tmp_path, *since) == rolling
    usual = evaluate(registered, tmp_path, "--data.path", tmp_path / "all.parquet")
    assert usual["origins"] > 3 * 50  # 14 horizons are more than a third of 200 hours
    assert usual["metrics"]["model"]["coverage_95"] is not None


@pytest.mark.parametrize(
    ("test", "options", "message"),
    [
        ([["C", 1, 2]], (), "1 series that the data has not, such as 'C'"),
        ([["A", *range(7)]], ("--origins", "last"), "--actual has 7 steps, the model forecasts 6"),
        (TEST, ("--since", "1970-01-01"), "--since is for rolling origins without --actual"),
        (TEST, ("--output", "/nowhere/out.json"), "cannot write to /nowhere/out.json"),
        (TEST, ("--version", "challenger"), "challenger"),
        (TEST, ("--data.frequency", "1d"), "the model has a step of 1h, --data.frequency says 1d"),
    ],
)
def test_mistakes_are_one_line(
    registered: Registered,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    test: list[list[object]],
    options: tuple[str, ...],
    message: str,
) -> None:
    train, actual = write_wide(tmp_path / "train.csv", TRAIN), write_wide(tmp_path / "test.csv", test)
    fixed = ["evaluate", f"--tracking.uri={registered[0].uri}", f"--data.path={train}", f"--actual={actual}"]
    assert main([*fixed, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_nothing_to_score_is_an_error(
    registered: Registered, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_wide(tmp_path / "short.csv", [["A", *range(10)]])
    assert main(["evaluate", f"--tracking.uri={registered[0].uri}", f"--data.path={path}", "--origins=last"]) == 2
    assert "can be scored: each takes 12 values before it" in capsys.readouterr().err


def test_what_came_has_to_come_afterwards(
    registered: Registered, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wander(2, 40).write_csv(tmp_path / "data.csv")
    options = [f"--data.path={tmp_path / 'data.csv'}", f"--actual={tmp_path / 'data.csv'}"]
    assert main(["evaluate", f"--tracking.uri={registered[0].uri}", *options]) == 2
    assert "begins before the data ends" in capsys.readouterr().err


def test_how_many_horizons_are_scored_is_a_number_and_not_a_length_of_time(
    registered: Registered, tmp_path: pathlib.Path
) -> None:
    """Of a week of hours and a horizon of 6 the old two weeks would be all; 14 horizons are half, a third counts."""
    frame = wander(2, 180)
    frame.write_parquet(tmp_path / "all.parquet")
    times = frame["ds"].unique().sort()

    def first(*options: object) -> str:
        return str(evaluate(registered, tmp_path, "--data.path", tmp_path / "all.parquet", *options)["first_time"])

    assert first() == times[-60].isoformat()
    assert first("--horizons", 2) == times[-12].isoformat()
    long = wander(1, 400)
    long.write_parquet(tmp_path / "all.parquet")
    assert first() == long["ds"][-14 * 6].isoformat()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--horizons", "0"), "horizons=0 is not allowed: use 1 or more"),
        (("--horizons", "2", "--origins", "last"), "--horizons is for rolling origins without --since and --actual"),
        (("--horizons", "2", "--since", "2024-01-01"), "--horizons is for rolling origins without --since"),
    ],
)
def test_contradictory_horizons_are_refused(
    options: tuple[str, ...],
    text: str,
    registered: Registered,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wander(1, 60).write_parquet(tmp_path / "all.parquet")
    fixed = ("evaluate", f"--tracking.uri={registered[0].uri}", f"--data.path={tmp_path / 'all.parquet'}")
    assert main([*fixed, *options]) == 2
    assert text in capsys.readouterr().err
