"""What a process imports before it needs it takes seconds at every start; what imports make is not garbage."""

import gc
import pathlib
import subprocess
import sys

import pytest

from forecaster.imports import absent, without_collections

_HEAVY = {"torch", "mlflow", "lightning", "scipy", "numba", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("forecaster.cli", _HEAVY | {"polars", "numpy", "grpc"}),
        ("forecaster.client, forecaster.data.report, forecaster.data.schema, forecaster.data.windows", _HEAVY),
        ("forecaster.serving.server", {"mlflow", "lightning", "scipy.stats", "pandas", "matplotlib"}),
        ("forecaster.training.run.job, pipelines.training.step", _HEAVY),
    ],
)
def test_nothing_large_is_imported_before_it_is_needed(modules: str, absent: set[str]) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert absent.isdisjoint(done.stdout.split())


def test_garbage_is_collected_again_after_the_imports() -> None:
    with without_collections():
        assert not gc.isenabled()
        with without_collections():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), without_collections():
        raise ImportError
    assert gc.isenabled()


def test_later_collections_pass_over_what_was_imported() -> None:
    code = """
import gc
from forecaster.imports import without_collections
with without_collections():
    import wave
assert gc.get_freeze_count() == 0
with without_collections():
    import asyncio, http.server, unittest, xml.dom.minidom
print(gc.get_freeze_count() > 1000, gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_a_package_is_absent_for_a_while_only() -> None:
    code = """
import sys
from forecaster.imports import absent
with absent("wave", "json.tool"):
    try:
        import wave
    except ImportError:
        print("absent")
import wave
print(wave.__name__, "json.tool" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["absent", "wave", "False"]


def test_what_is_imported_already_stays() -> None:
    with absent("gc", "sys"):
        assert sys.modules["gc"] is gc
    assert sys.modules["gc"] is gc


def test_a_server_looks_models_up_without_pandas(tmp_path: pathlib.Path) -> None:
    code = """
import sys
from forecaster.registry import registry
from forecaster.config import TrackingConfig
from forecaster.errors import ModelNotFoundError
registry.prepare()
config = TrackingConfig(uri="sqlite:///" + sys.argv[1])
registry.connect(config)
try:
    registry.load_bundle(config)
except ModelNotFoundError:
    print("none")
print("pandas" in sys.modules, "pyarrow" in sys.modules)
import importlib, pandas
print(pandas.DataFrame({"y": [1.0]}).y.sum())
from mlflow.store.artifact import hdfs_artifact_repo
print(hasattr(importlib.reload(hdfs_artifact_repo), "HadoopFileSystem"))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "mlflow.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["none", "False", "False", "1.0", "True"]
