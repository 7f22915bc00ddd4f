"""What a store's address says."""

from pathlib import Path

import hypothesis
import pytest
import sqlalchemy
from hypothesis import strategies as st

from forecaster.config import Config, IngestConfig, TrackingConfig, to_dict
from forecaster.registry.store_uri import (
    artifact_location,
    local_path,
    moved,
    sqlite_path,
    sqlite_uri,
    without_password,
    without_passwords,
    without_secrets,
)
from forecaster.user_paths import at_home, literal


def test_a_sqlite_address_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///mlflow.db") == tmp_path.resolve() / "mlflow.db"
    assert sqlite_path("sqlite:////var/lib/m.db?timeout=5") == Path("/var/lib/m.db")
    for other in ("sqlite://", "sqlite:///:memory:", "http://host", "postgresql://host/db"):
        assert sqlite_path(other) is None


def test_artifacts_lie_beside_a_file_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert artifact_location(TrackingConfig(uri="sqlite:////srv/m.db")) == "/srv/mlartifacts"
    assert artifact_location(TrackingConfig(uri="http://host")) is None
    assert artifact_location(TrackingConfig(artifacts="s3://bucket/x")) == "s3://bucket/x"
    assert artifact_location(TrackingConfig(artifacts="here")) == str(tmp_path.resolve() / "here")


def test_a_moved_store_is_followed() -> None:
    there = TrackingConfig(uri="sqlite:////new/m.db")
    folder = Path("/old/mlartifacts/models/m-1/artifacts")
    assert moved(there, folder) == Path("/new/mlartifacts/models/m-1/artifacts")
    assert moved(there, Path("/old/elsewhere/models")) is None
    assert moved(TrackingConfig(uri="http://host"), folder) is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("https://host:5000/a:b@c", "https://host:5000/a:b@c"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////a:b@c/mlflow.db?timeout=5", "sqlite:////a:b@c/mlflow.db?timeout=5"),
        ("s3://bucket/a:b@c.csv", "s3://bucket/a:b@c.csv"),
        ("postgresql://me:s/ec@r:et@host:5432/db?sslmode=require", "postgresql://me:***@host:5432/db?sslmode=require"),
        ("postgresql+psycopg://me:12/34@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:s#ec?r/et@host/db", "postgresql://me:***@host/db"),
        ("redis://:secret@host", "redis://:***@host"),
        ("https://me:s/ecret@host/a?b=c@d", "https://me:***@host/a?b=c@d"),
        ("postgresql:///db?user=me&password=s#ec&host=h", "postgresql:///db?user=me&password=***&host=h"),
        (
            "https://b.s3.amazonaws.com/x.csv?X-Amz-Date=1&X-Amz-Signature=ab&X-Amz-Security-Token=c%3D",
            "https://b.s3.amazonaws.com/x.csv?X-Amz-Date=1&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("az://c/x.csv?sv=1&SIG=ab=", "az://c/x.csv?sv=1&SIG=***"),
        ("what has no address: a?key=b", "what has no address: a?key=b"),
    ],
)
def test_a_password_is_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_no_password_of_a_configuration_is_shown() -> None:
    plain = to_dict(Config(ingest=IngestConfig(sql_url="mysql://me:secret@host/db", sql_query="SELECT 1")))
    shown = without_passwords(plain | {"paths": ["https://me:secret@host/x.csv", 1]})
    assert "secret" not in str(shown)
    assert shown["ingest"]["sql_url"] == "mysql://me:***@host/db"
    assert shown["training"] == plain["training"]
    assert shown["paths"] == ["https://me:***@host/x.csv", 1]


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@hypothesis.given(parts=st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3))
def test_any_path_survives_as_an_address(parts: list[str]) -> None:
    """What SQLAlchemy and MLflow make of the address is the path that went into it."""
    path = Path("/srv", *parts)
    uri = sqlite_uri(path / "mlflow.db")
    assert sqlite_path(uri) == (path / "mlflow.db").resolve()
    assert sqlalchemy.make_url(uri).database == str(path / "mlflow.db")
    location = artifact_location(TrackingConfig(uri=uri))
    assert location is not None
    assert local_path(location) == (path / "mlartifacts").resolve()


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1/models/m-1", "dbfs:/models", "s3://bucket/models"])
def test_a_scheme_with_or_without_a_host_is_elsewhere(location: str) -> None:
    assert local_path(location) is None
    assert artifact_location(TrackingConfig(artifacts=location)) == location


def test_an_address_that_names_a_folder_as_it_is_means_that_folder(tmp_path: Path) -> None:
    odd = tmp_path / "feature%2Fmain?"
    address = f"sqlite:///{odd}/mlflow.db"
    assert literal(address) == address  # there is no such folder
    odd.mkdir()
    assert sqlite_path(literal(address)) == odd / "mlflow.db"
    assert sqlite_path(literal(f"{address}?timeout=5")) == odd / "mlflow.db"
    for other in (f"sqlite:///{tmp_path}/mlflow.db?timeout=5", "http://host/a%2Fb", "sqlite:///mlflow.db"):
        assert literal(other) == other


def test_home_is_meant_by_a_tilde_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert at_home("~/state") == "/home/me/state"
    assert at_home("sqlite:///~/mlflow.db") == "sqlite:////home/me/mlflow.db"
    for other in ("state~", "a/~/b", "~other", "http://host/~me", "sqlite:///a~/m.db"):
        assert at_home(other) == other


def test_a_message_shows_no_password_however_it_has_it() -> None:
    uri = "http://me:p%40ss-word@host/store"
    said = f"API request to {uri}/api failed: ('me', 'p@ss-word') at https://other:hidden@proxy, see http://docs/x"
    shown = without_secrets(said, uri)
    assert "p%40ss-word" not in shown
    assert "p@ss-word" not in shown
    assert "hidden" not in shown
    assert shown.startswith("API request to http://me:***@host/store/api failed")
    assert shown.endswith("see http://docs/x")
    assert without_secrets("nothing to hide: a:b@c", "sqlite:///mlflow.db") == "nothing to hide: a:b@c"
