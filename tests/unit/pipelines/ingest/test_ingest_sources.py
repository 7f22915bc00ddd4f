"""Sources that are no files: a database's answer and an object store, with real ones of each on loopback."""

import io
import pathlib
import sqlite3

import polars as pl
import psycopg
import pytest

from forecaster.config import Config, DataConfig, IngestConfig
from forecaster.data.manifest import Changes
from forecaster.errors import ConfigError, DataError
from pipelines.ingest.sources import find_sources
from pipelines.ingest.step import IngestResult, ingest
from tests.postgres import Cluster
from tests.unit.pipelines.ingest.ingesting import DataSet, Row, frame
from tests.unit.pipelines.ingest.object_store import object_store

ROWS: list[Row] = [("a", 0, 1.5, 1.0), ("a", 1, None, None), ("b", 900, 3.0, 2.0)]
RAIN = {"past_covariates": ("rain",)}
QUERY = "SELECT meter AS unique_id, at, value, rain FROM readings"


def ask(folder: pathlib.Path, url: str, query: str = QUERY) -> IngestResult:
    data = DataConfig(time_column="at", target_column="value", **RAIN)  # type: ignore[arg-type]  # a dict of texts
    return ingest(Config(data=data, ingest=IngestConfig(sql_url=url, sql_query=query, output=str(folder / "dataset"))))


@pytest.fixture
def database(tmp_path: pathlib.Path) -> str:
    """Return the URL of a SQLite file with readings, whose times are text."""
    with sqlite3.connect(tmp_path / "meters.db") as connection:
        connection.execute("CREATE TABLE readings (meter TEXT, at TEXT, value REAL, rain INTEGER)")
        told = [(name, time.isoformat(), *values) for name, time, *values in frame(ROWS, "rain").iter_rows()]
        connection.executemany("INSERT INTO readings VALUES (?, ?, ?, ?)", told)
    connection.close()
    return f"sqlite:///{tmp_path / 'meters.db'}"


def test_a_query_is_answered_in_parts(tmp_path: pathlib.Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.ingest.sources._ROWS", 2)
    data_set = DataSet(tmp_path, RAIN)
    assert ask(tmp_path, database).changes == Changes(new=3)
    assert data_set.rows() == ROWS
    with sqlite3.connect(tmp_path / "meters.db") as connection:
        connection.execute("INSERT INTO readings VALUES ('b', '2013-03-09T00:00:00Z', 4, NULL)")
    connection.close()
    result = ask(tmp_path, database)
    assert result.changes == Changes(new=1, known=3)
    assert [name.endswith(QUERY) for name in result.manifest.sources] == [True]


def test_a_postgres_query(tmp_path: pathlib.Path, postgres: Cluster) -> None:
    name = postgres.create_database()
    with psycopg.connect(postgres.url(name)) as connection:
        connection.execute("CREATE TABLE readings (meter text, at timestamptz, value numeric, rain float8)")
        told = list(frame(ROWS, "rain").iter_rows())
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO readings VALUES (%s, %s, %s, %s)", told)
        connection.execute("SET timezone = 'Asia/Kathmandu'")
    url = postgres.url(name).replace("postgresql://", "postgresql+psycopg://").replace("@", ":secret@")
    result = ask(tmp_path, url)
    assert DataSet(tmp_path, RAIN).rows() == ROWS
    assert "secret" not in (tmp_path / "dataset" / "manifest.json").read_text()
    assert "forecaster:***@" in next(iter(result.manifest.sources))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM elsewhere", "meters.db: the query failed: .*no such table: elsewhere"),
        (QUERY.replace("rain", "1 AS snow"), "meters.db: the answer has no column 'rain', which data.past_covariates"),
        (QUERY.replace("value,", "'high' AS value,"), "meters.db: the answer row 1: value='high' is not a number"),
        (QUERY + " WHERE false", "no source has any rows"),
    ],
)
def test_wrong_queries_are_refused(tmp_path: pathlib.Path, database: str, query: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ask(tmp_path, database, query)


def test_a_query_may_have_nothing_new(tmp_path: pathlib.Path, database: str) -> None:
    before = ask(tmp_path, database)
    again = ask(tmp_path, database, QUERY + " WHERE at > '2100'")
    assert again.changes == Changes()
    assert again.manifest.content_hash == before.manifest.content_hash
    assert DataSet(tmp_path, RAIN).rows() == ROWS


def test_no_secret_of_an_address_is_kept(tmp_path: pathlib.Path, database: str) -> None:
    ask(tmp_path, f"{database.replace('sqlite:///', 'sqlite:///file:')}?token=hunter2&uri=true")
    kept = (tmp_path / "dataset" / "manifest.json").read_text()
    assert "hunter2" not in kept
    assert "?token=***&uri=true" in kept


def test_addresses_that_look_the_same_are_different_sources() -> None:
    signed = "https://host/{}.csv?X-Amz-Signature={}"
    urls = (signed.format("a", 1), signed.format("a", 2), signed.format("b", 3), signed.format("b", 3))
    found = find_sources(Config(ingest=IngestConfig(sources=urls)))
    assert [source.name for source in found] == [signed.format(name, "***") for name in "aab"]


def test_databases_that_are_none_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"ingest\.sql_url: nonsense cannot be used: "):
        ask(tmp_path, "nonsense")
    with pytest.raises(DataError, match=r"the query failed: .*unable to open database file"):
        ask(tmp_path, f"sqlite:///{tmp_path}/no/such.db")
    with pytest.raises(ConfigError, match="it together with"):
        IngestConfig(sql_url="sqlite:///there.db")


def test_object_stores_are_read_by_polars(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet, csv = io.BytesIO(), io.BytesIO()
    rows = frame(ROWS, "rain")
    rows.write_parquet(parquet)
    rows.with_columns(pl.col("y") + 1, unique_id=pl.lit("c")).write_csv(csv)
    objects = {"meters/2013/one.parquet": parquet.getvalue(), "meters/two.csv": csv.getvalue()}
    data_set = DataSet(tmp_path, RAIN)
    with object_store(objects) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = data_set.config("s3://meters/2013/*.parquet")
        assert ingest(config).changes == Changes(new=3)
        assert data_set.rows() == ROWS
        assert ingest(config).line().startswith("0 new rows, 3 known already; ")  # nothing says that it has not changed
        assert ingest(data_set.config("s3://meters/two.csv")).changes.new == 3
        with pytest.raises(DataError, match=r"s3://meters/no\.parquet cannot be read as Parquet: "):
            ingest(data_set.config("s3://meters/no.parquet"))
