"""`forecaster pipelines` runs our steps, whatever the working folder holds."""

import pathlib
import subprocess
import sys

import pytest

from forecaster import steps
from pipelines.schedule import attempt

SCRIPT = (str(pathlib.Path(sys.executable).with_name("forecaster")), "pipelines")


@pytest.mark.parametrize("command", [SCRIPT, steps.COMMAND, attempt.PROGRAM], ids=["script", "child", "scheduled"])
def test_a_folder_of_the_callers_does_not_shadow_the_steps(command: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    (tmp_path / "pipelines").mkdir()
    for name in ("pipelines/__init__.py", "pipelines/__main__.py", "forecaster.py"):
        (tmp_path / name).write_text("print('the wrong one')\n")
    asked = [*command, "rollback", "--tracking.uri", "sqlite:///none.db"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file" in done.stderr, done.stderr


def test_the_steps_are_loaded_by_where_they_lie(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("")
    code = "import pipelines, sys; from forecaster import steps; sys.exit(steps.run(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "usage: forecaster pipelines" in done.stdout) == (0, True), done.stderr
