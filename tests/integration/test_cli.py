"""The `forecaster` command as a newcomer uses it, mistakes included: real processes, real files."""

import pathlib
import subprocess
import sys

import polars as pl
import pytest

from .conftest import ServerFactory, wander


def forecaster(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecaster", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


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
