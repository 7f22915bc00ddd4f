"""A `tritonserver` process out of the wheel `nvidia-pytriton`, with a model repository of its own, and its requests."""

import contextlib
import os
import pathlib
import shutil
import struct
import subprocess
import urllib.request
from collections.abc import Iterator

from tests.benchmarks.others.processes import free_port, running

_CONFIG = """name: "gru"
backend: "python"
max_batch_size: {batch}
input [ {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "FORECAST" data_type: TYPE_FP32 dims: [ 72 ] }} ]
instance_group [ {{ count: {instances} kind: KIND_CPU }} ]
sequence_batching {{
  max_sequence_idle_microseconds: 3600000000
  oldest {{ max_candidate_sequences: 16384 preferred_batch_size: [ {batch} ] max_queue_delay_microseconds: 0 }}
}}
"""


@contextlib.contextmanager
def tritonserver(folder: pathlib.Path, python: pathlib.Path, instances: int, batch: int) -> Iterator[str]:
    """Run tritonserver with a model repository of its own; yields its gRPC address."""
    packages, library, version = _paths(python)
    backend = folder / "backends" / "python"
    shutil.copytree(packages / "pytriton/tritonserver/backends/python", backend)
    shutil.copy(packages / f"pytriton/tritonserver/python_backend_stubs/{version}/triton_python_backend_stub", backend)
    model = folder / "models" / "gru"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_CONFIG.format(instances=instances, batch=batch))
    shutil.copy(pathlib.Path(__file__).with_name("triton_model.py"), model / "1" / "model.py")
    grpc_port, http_port = free_port(), free_port()
    command = [
        packages / "pytriton/tritonserver/bin/tritonserver",
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--grpc-port={grpc_port}",
        f"--http-port={http_port}",
        "--grpc-address=127.0.0.1",
        "--http-address=127.0.0.1",
        "--allow-metrics=false",
    ]
    # The backend's process finds its packages by the first `python3` on the PATH.
    path = f"{python.parent}:{os.environ.get('PATH', '')}"
    paths = {"PATH": path, "LD_LIBRARY_PATH": f"{library}:{packages / 'nvidia_pytriton.libs'}"}
    with running(command, folder / "log", lambda: _answers(f"http://127.0.0.1:{http_port}/v2/health/ready"), paths):
        yield f"127.0.0.1:{grpc_port}"


def _paths(python: pathlib.Path) -> tuple[pathlib.Path, str, str]:
    """Return where an environment's packages and its libpython are, and its Python's version."""
    code = "import sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'), s.get_python_version())"
    words = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return pathlib.Path(words[0]), words[1], words[2]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def requests(python: pathlib.Path, sequences: int) -> tuple[list[bytes], list[bytes]]:
    """Return a request that starts each sequence, and one that goes on with each (see `triton_requests`)."""
    script = pathlib.Path(__file__).with_name("triton_requests.py")
    # -P: this folder is full of names that others have too.
    joined = subprocess.run([python, "-P", script, str(sequences)], capture_output=True, check=True).stdout
    found, at = [], 0
    while at < len(joined):
        (size,) = struct.unpack_from("<I", joined, at)
        found.append(joined[at + 4 : at + 4 + size])
        at += 4 + size
    return found[:sequences], found[sequences:]
