"""Members of an ensemble in processes of their own, real ones."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys

import forecaster

SCRIPT = """
from small import make_config, make_series
from forecaster.training.members import fit_members

fit_members(make_series(), make_config(max_epochs=1_000_000), members=2, processes=2)
"""


def test_members_end_when_their_parent_is_killed() -> None:
    paths = (pathlib.Path(forecaster.__file__).parents[1], pathlib.Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert parent.stderr is not None
    try:
        training: set[str] = set()
        for line in parent.stderr:  # every member reports its epochs there
            training.update(re.findall(r"^seed (\d+): ", line))
            if training == {"1", "2"}:
                break
        assert training == {"1", "2"}
        parent.send_signal(signal.SIGKILL)
        # Members hold this pipe too: it ends when the last of them has.
        parent.communicate(timeout=180)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stderr.close()
