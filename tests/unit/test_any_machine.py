"""No test fails because a machine is slow."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("where", [{}, {"CI": "true"}], ids=["at home", "in CI"])
def test_examples_may_take_their_time(where: dict[str, str]) -> None:
    code = "import tests.conftest, hypothesis; one = hypothesis.settings(); print(one.deadline, one.derandomize)"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS")} | where
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["None", str(bool(where))]
