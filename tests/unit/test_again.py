"""`make test-again` finds what fails now and then, and goes on where it was stopped."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from tests.again.__main__ import timed_files

FLAKY = """
import pathlib
import time

RUNS = pathlib.Path(__file__).with_suffix(".runs")


def test_that_fails_the_third_time():
    time.sleep(0)
    runs = int(RUNS.read_text()) if RUNS.exists() else 0
    RUNS.write_text(str(runs + 1))
    assert runs != 2


def test_that_never_fails():
    pass
"""


def again(folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tests.again",
        "--times=2",
        f"--tests={folder}",
        f"--state={folder / 'state.json'}",
    ]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with one file that waits, one that fails at once and one that does neither."""
    (tmp_path / "test_flaky.py").write_text(FLAKY)
    (tmp_path / "test_wrong.py").write_text("import threading\nimport no_such_module\n")
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    raise AssertionError\n")
    return tmp_path


def test_what_failed_is_counted_by_condition(folder: pathlib.Path) -> None:
    done = again(folder, "flaky")
    assert done.returncode == 1, done.stderr
    failed = r"^busy: (\S+\.)?test_flaky::test_that_fails_the_third_time failed 1 of 2 times$"
    assert re.search(failed, done.stdout, re.MULTILINE)
    assert "idle:" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": 1 failures")
    assert (folder / "test_flaky.runs").read_text() == "4"


def test_a_call_that_was_stopped_is_gone_on_with(folder: pathlib.Path) -> None:
    again(folder, "flaky")
    path = folder / "state.json"
    state = json.loads(path.read_text())
    del state["done"][f"busy 1 {folder / 'test_flaky.py'}"]  # as if it had been stopped in the last one
    path.write_text(json.dumps(state))
    done = again(folder, "flaky")
    assert (folder / "test_flaky.runs").read_text() == "5"
    assert done.returncode == 1
    assert again(folder, "flaky").stdout.splitlines()[-1].endswith(": 1 failures")
    assert (folder / "test_flaky.runs").read_text() == "5"


def test_a_file_that_cannot_be_read_is_a_failure(folder: pathlib.Path) -> None:
    assert [path.name for path in timed_files(folder)] == ["test_flaky.py", "test_wrong.py"]
    done = again(folder, "wrong")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(": 4 failures")
