"""States and registered versions that earlier commits made are served by this one; the forecasts are equal."""

import json
import lzma
import math
import pathlib
import subprocess
from typing import Any

import polars as pl
import pytest

from tests.data.make import STORE, future, moved, plain, pyfunc, rows, server, unpacked
from tests.postgres import ADMINISTRATOR, Cluster, programs

MADE = sorted(path.parent for path in (pathlib.Path(__file__).parents[2] / "data").glob("*/facts.json"))


@pytest.fixture(params=MADE, ids=lambda path: path.name)
def made(request: pytest.FixtureRequest) -> pathlib.Path:
    """Return a folder of files."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def uri(made: pathlib.Path, tmp_path: pathlib.Path) -> str:
    """Return the address of the model store that was made, which has moved."""
    store = unpacked(made / "store.tar.xz", tmp_path / "store")
    moved(store / "mlflow.db", STORE, str(store))
    return f"sqlite:///{store}/mlflow.db"


@pytest.mark.parametrize("backend", ["folder", "postgres"])
def test_a_state_is_served(
    made: pathlib.Path, uri: str, backend: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    if backend == "folder":
        state = str(unpacked(made / "state.tar.xz", tmp_path / "state"))
    else:
        state = restored(request.getfixturevalue("postgres"), lzma.decompress((made / "postgres.sql.xz").read_bytes()))
    facts, frame = json.loads((made / "facts.json").read_text())[backend], rows()
    with server(tmp_path, uri, state) as client:
        listed = sorted([info.unique_id, info.length, info.observed_length] for info in client.list_series())
        assert listed == facts["series"]
        ids = [name for name, *_ in listed]
        known = future(frame).filter(pl.col("unique_id").is_in(ids))
        assert_close(plain(client.forecast(ids, future=known)), facts["forecasts"])
        last = frame.filter(pl.col("y").is_not_null() & (pl.col("unique_id") == "north"))
        assert client.observe(last).duplicates == len(last)  # from the journal, and from files


def test_a_registered_version_is_loaded_by_mlflow(made: pathlib.Path, uri: str) -> None:
    """MLflow runs the code that was copied beside the version, with the module paths of then."""
    assert_close(pyfunc(uri, rows()), json.loads((made / "facts.json").read_text())["pyfunc"])


def restored(cluster: Cluster, statements: bytes) -> str:
    """Return the URL of a database of the server's user with what was dumped."""
    bin_folder = programs()
    assert bin_folder is not None
    database = cluster.create_database()
    where = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", ADMINISTRATOR, "-d", database, "-q", "-v"]
    owner = b"SET ROLE forecaster;\n"
    subprocess.run([bin_folder / "psql", *where, "ON_ERROR_STOP=1"], input=owner + statements, check=True)
    return cluster.url(database)


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Rows are the same but for the last digits of numbers: another processor's kernels add up in another order."""
    assert len(found) == len(expected) > 0
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(value, float):
                assert math.isclose(value, other[name], rel_tol=1e-5, abs_tol=1e-6), (name, row, other)
            else:
                assert value == other[name]
