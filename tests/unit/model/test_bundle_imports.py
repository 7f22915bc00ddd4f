"""A bundle is read without torch's compiler, whose import takes a second of every server's start."""

import subprocess
import sys

from tests.unit.model.family import FAMILY

CODE = """
import pathlib, sys, tempfile
from forecaster.model.bundle import Bundle
from tests.unit.model.family import FAMILY, member_of_family
assert "torch._dynamo" not in sys.modules
for name, row in FAMILY.items():
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.of(member_of_family(row), frequency="1h", max_gap_steps=10)
        bundle.save(pathlib.Path(folder))
        assert Bundle.load(pathlib.Path(folder)).fingerprint == bundle.fingerprint
    assert "torch._dynamo" not in sys.modules, name
print(len(FAMILY))
"""


def test_torchs_compiler_is_not_imported() -> None:
    command = [sys.executable, "-W", "error", "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.stderr) == (f"{len(FAMILY)}\n", "")
