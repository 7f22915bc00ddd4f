"""What a process imports before it needs it takes seconds at every start; what imports make is not garbage."""

import gc
import subprocess
import sys

import pytest

from forecaster.imports import without_collections

_HEAVY = {"torch", "mlflow", "lightning", "scipy", "numba", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("forecaster.cli", _HEAVY | {"polars", "numpy", "grpc"}),
        ("forecaster.client, forecaster.data.report, forecaster.data.schema, forecaster.data.windows", _HEAVY),
        ("forecaster.serving.server", {"mlflow", "lightning", "scipy.stats", "pandas", "matplotlib"}),
        ("forecaster.training.job, pipelines.train", _HEAVY),
    ],
)
def test_nothing_large_is_imported_before_it_is_needed(modules: str, absent: set[str]) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
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
