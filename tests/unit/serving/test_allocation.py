"""Memory of large arrays goes back to the system when they are freed, whatever was freed before."""

import os
import subprocess
import sys

_CODE = """
import sys
import numpy as np
from forecaster.serving.allocation import give_back

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) // 1024

if sys.argv[1] == "yes":
    assert give_back()
before = resident()
np.ones(30 << 17)  # 30 MB, freed at once: from here on glibc would take blocks up to that size from the heap
kept = []
for _ in range(40):
    block = np.ones(4 << 17)
    kept.append(bytes(100_000))  # lives long, and lies behind
    del block
blocks = [np.ones(4 << 17) for _ in range(40)]
kept.append(bytes(100_000))
del blocks
print(resident() - before)
"""


def test_what_large_blocks_took_goes_back() -> None:
    def grown(told: str) -> int:
        command = [sys.executable, "-c", _CODE, told]
        plain = {
            name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
        }
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=plain)
        return int(done.stdout)

    assert grown("no") > 100  # MB: what this is for
    assert grown("yes") < 30
