"""The `forecaster` command as a newcomer uses it, mistakes included: real processes, real files."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.cli import main
from forecaster.client import ForecastClient, read_csv
from tests.integration.conftest import Server, ServerFactory, wander

DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def forecaster(*arguments: str, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command where every call on loopback has to pass a proxy that nobody runs."""
    command = [sys.executable, "-m", "forecaster", *arguments]
    env = os.environ | DEAD_PROXY | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


DAILY = "unique_id,ds,y\n" + "".join(f"a,2024-01-{day:02},{day}\n" for day in range(1, 31))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("series,when,value\na,2024-01-01,1\n", [], "has no columns 'unique_id', 'ds', 'y', only 'series', 'when'"),
        ("unique_id,ds,y\na,2024-01-01,1\n", ["--data.target_column=sales"], "'sales'"),
        ("unique_id,ds,y\na,2024-01-01T00:00,1\na,2024-01-01T00:20,2\n", [], "1 time off the grid"),
        ("unique_id,ds,y\na,2024-01-01,1\na,2024-01-02,2\n", [], "no series is long enough"),
        (DAILY, [], "the data looks like 1d: set --data.frequency 1d"),
        ("unique_id,ds,y\na,2024-01-01,1\n", ["--data.frequency=1D"], "did you mean 1d?"),
        ("unique_id,ds,y\na,2024-01-01,1\n", ["--data.frequency=hourly"], "a fixed duration such as 1h"),
        ("unique_id,ds,y\na,hello,world\n", [], "ds='hello' is not a time"),
        ("unique_id,ds,y\na,2024-01-01,world\n", [], "y='world' is not a number"),
        ("Dear Sir,\nI write to you\n", [], "has no columns 'unique_id', 'ds', 'y'"),
        ("", [], "is empty"),
        ("unique_id,ds,y\n", [], "no rows below its column names"),
    ],
)
def test_wrong_data_is_answered_in_one_line(
    content: str, options: list[str], message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "data.csv").write_text(content)
    done = forecaster("train", "--data.path", "data.csv", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_server_that_does_not_run_is_said_soon(tmp_path: pathlib.Path) -> None:
    done = forecaster("forecast", "a", "--server", "localhost", cwd=tmp_path)
    assert (done.returncode, "use HOST:PORT" in done.stderr) == (2, True)
    done = forecaster("forecast", "a", "--server", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no server answers at 127.0.0.1:1: is it running (forecaster serve)?")


def test_observe_and_forecast_from_the_shell(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    server = servers()
    frame = wander(2, 40)
    frame.with_columns(pl.col("ds").dt.strftime("%Y-%m-%d %H:%M")).write_csv(tmp_path / "history.csv")
    observe = ("observe", "--data.path", "history.csv", "--server", server.address)
    done = forecaster(*observe, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "80 applied, 0 known already, 0 refused\n")
    done = forecaster(*observe, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 applied, 80 known already, 0 refused\n")
    done = forecaster("observe", "--server", server.address, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: name the file to send: --data.path mine.csv\n")
    done = forecaster(*observe, "--data.frequency=1d", cwd=tmp_path)
    assert done.returncode == 2
    assert "has a step of 1:00:00, --data.frequency says 1 day" in done.stderr
    done = forecaster("health", "--server", server.address, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "SERVING\n")
    assert forecaster("health", "--server", "127.0.0.1:1", cwd=tmp_path).returncode == 1
    done = forecaster("forecast", "s1", "s0", "--horizon", "3", "--server", server.address, cwd=tmp_path)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if " s" in line]
    assert ["s1" in line for line in lines] == [True] * 3 + [False] * 3
    assert "y_hat" in done.stdout
    assert "2024-01-02 16:00:00" in lines[0]
    done = forecaster("forecast", "nobody", "--server", server.address, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: no series 'nobody': observe it first\n")


def shell(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its status and what it writes."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()


def test_forecasts_into_files_of_all_series_or_of_those_that_can_be(server: Server, tmp_path: pathlib.Path) -> None:
    where = ("--server", server.address)
    long = "é" * 200  # an id that a table would cut, and a terminal may not be able to write
    rows = pl.concat([wander(2, 40), wander(1, 40).with_columns(unique_id=pl.lit(long)), young(3)])
    rows.with_columns(pl.col("ds").dt.strftime("%Y-%m-%dT%H:%MZ"), note=1, Y_hat=2).write_csv(tmp_path / "a.csv")
    status, out, err = shell("observe", "--data.path", str(tmp_path / "a.csv"), "--model=forecaster", *where)
    assert (status, out) == (0, "123 applied, 0 known already, 0 refused\n")
    assert err == "  not used, as the model does not know it: note, Y_hat\n"
    with ForecastClient(server.address) as client:
        expected = client.forecast(["s0", "s1", long], quantile_levels=[0.1, 0.9]).sort("unique_id", "ds")
    for name in ("f.csv", "f.json", "f.jsonl", "f.parquet"):
        status, out, err = shell("forecast", "--all", "--output", str(tmp_path / name), *where)
        assert (status, out) == (0, "")
        assert err.startswith("  no forecast: series 'young'")
    assert_frame_equal(read_csv(tmp_path / "f.csv"), expected)
    assert_frame_equal(pl.read_parquet(tmp_path / "f.parquet"), expected)
    for read in (pl.read_json(tmp_path / "f.json"), pl.read_ndjson(tmp_path / "f.jsonl")):
        assert_frame_equal(read.with_columns(pl.col("ds").str.to_datetime(time_zone="UTC")), expected)
    status, out, err = shell("forecast", "s0", "young", *where)
    assert (status, out, "young" in err) == (2, "", True)
    status, out, err = shell("forecast", "young", "--allow-partial", *where)
    assert (status, "young" in err) == (1, True)
    status, out, _ = shell("forecast", long, "--horizon", "1", *where)
    assert long in out
    done = forecaster("forecast", long, "--horizon", "1", *where, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9" * 200 in done.stdout
    done = forecaster("forecast", long, "--output", "-", *where, cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert done.stdout.splitlines()[0] == "unique_id,ds,y_hat,q0.1,q0.9"
    assert done.stdout.count(long) == 6


def young(steps: int) -> pl.DataFrame:
    return wander(1, steps).with_columns(unique_id=pl.lit("young"))


def test_series_are_listed_and_deleted(server: Server, tmp_path: pathlib.Path) -> None:
    where = ("--server", server.address)
    with ForecastClient(server.address) as client:
        client.observe(wander(3, 4))
    status, out, _ = shell("series", *where)
    assert (status, [f"s{k}" in out for k in range(3)]) == (0, [True] * 3)
    assert shell("series", "s1", "--output", str(tmp_path / "s.csv"), *where)[0] == 0
    (row,) = read_csv(tmp_path / "s.csv", time_column="last_ds").rows(named=True)
    assert (row["unique_id"], row["length"]) == ("s1", 4)
    assert shell("delete", "s0", "nobody", "s1", *where) == (
        1,
        "deleted s0\ndeleted s1\n",
        "  no series 'nobody': observe it first\n",
    )
    status, out, _ = shell("series", *where)
    assert ["s0" in out, "s1" in out, "s2" in out] == [False, False, True]
    status, _, err = shell("forecast", "--all", "--model", "other", *where)
    assert (status, "other" in err) == (2, True)
    assert shell("--version") == (0, "forecaster 0.1.0\n", "")


@pytest.mark.parametrize("command", ["benchmark", "observe", "forecast", "series"])
def test_the_help_shows_no_addresses_of_functions(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "0x" not in capsys.readouterr().out
