"""Make files that later commits must be able to serve: a state folder, a PostgreSQL state, a model store.

    python -m tests.data.make FOLDER

It goes the way of a user, by the command line and the client: trains, serves, observes, deletes a series, lets the
journal be pruned into the history, and kills the server. FOLDER then has

    state.tar.xz    the state folder, as the killed server left it
    postgres.sql.xz the same by a server on PostgreSQL, as `pg_dump` tells it
    store.tar.xz    the model store; STORE stands for its folder in the database's addresses
    facts.json      the series and forecasts that the servers gave, and what `mlflow.pyfunc` forecasts
"""

import contextlib
import datetime as dt
import json
import lzma
import math
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import polars as pl

from forecaster.client import ForecastClient
from tests.postgres import ADMINISTRATOR, Cluster, programs, running_cluster

HOURS, BEHIND = 200, 24  # of each series, and of what is known ahead
STORE = "STORE"
TABLES = ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location")
COLUMNS = (*TABLES, "model_versions.source", "model_versions.storage_location")
START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
SECONDS = 180.0


def rows() -> pl.DataFrame:
    """Return four series with a covariate known ahead, a static one, a category and missing values."""
    found = []
    for n, name in enumerate(("a/b c", "é", "north", "last")):
        for hour in range(HOURS + BEHIND):
            y = 50 + 10 * n + 20 * math.sin(hour * 6.283 / 24) + 3 * math.sin(hour * (1.7 + n))
            is_missing = hour >= HOURS or (hour + n) % 13 == 5
            when = START + dt.timedelta(hours=hour)
            beside = (float(hour % 7 == 0), float(n), "south" if n % 2 else "north")
            found.append((name, when, None if is_missing else round(y, 3), *beside))
    schema = ["unique_id", "ds", "y", "promo", "area", "region"]
    return pl.DataFrame(found, schema=schema, orient="row").with_columns(pl.col("ds").cast(pl.Datetime("us", "UTC")))


def command(*arguments: str, log: pathlib.Path) -> subprocess.Popen[bytes]:
    """Begin a command of this project."""
    with log.open("ab") as file:
        program = [sys.executable, "-m", "forecaster", *arguments]
        return subprocess.Popen(program, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})


@contextlib.contextmanager
def server(folder: pathlib.Path, uri: str, state: str, *options: str) -> Iterator[ForecastClient]:
    """Serve while the block runs; the end is a kill."""
    address = folder / "address"
    address.unlink(missing_ok=True)
    where = (f"--tracking.uri={uri}", f"--serving.state={state}", f"--serving.address_file={address}")
    process = command("serve", *where, "--serving.port=0", "--serving.alias=1", *options, log=folder / "log")
    try:
        deadline = time.monotonic() + SECONDS
        while not address.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.05)
        with ForecastClient(address.read_text().strip()) as client:
            yield client
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def future(frame: pl.DataFrame) -> pl.DataFrame:
    """Return what is known of the time behind the series' ends."""
    end = START + dt.timedelta(hours=HOURS)
    return frame.filter(pl.col("ds") >= end).select("unique_id", "ds", "promo")


def plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as JSON has it."""
    return frame.with_columns(pl.col("ds").dt.to_string("iso:strict")).to_dicts()


def facts(client: ForecastClient, frame: pl.DataFrame) -> dict[str, Any]:
    """Return which series a server has, and its forecasts."""
    listed = sorted((info.unique_id, info.length, info.observed_length) for info in client.list_series())
    ids = [name for name, *_ in listed]
    known = future(frame).filter(pl.col("unique_id").is_in(ids))
    return {"series": listed, "forecasts": plain(client.forecast(ids, future=known))}


def fill(folder: pathlib.Path, uri: str, state: str, frame: pl.DataFrame) -> dict[str, Any]:
    """Let a state come about: some of it in the history, some in snapshots, some only in the journal."""
    past = frame.filter(pl.col("ds") < START + dt.timedelta(hours=HOURS))
    parts = [past.filter(pl.col("ds").is_between(START + dt.timedelta(hours=low), START + dt.timedelta(hours=low + 49)))
             for low in range(0, HOURS, 50)]  # fmt: skip
    with server(folder, uri, state, "--serving.snapshot_seconds=0.2", "--serving.journal_seconds=0") as client:
        client.observe(parts[0])
        client.observe(parts[1])
        time.sleep(3.0)  # some rounds of snapshots, and of pruning
    with server(folder, uri, state, "--serving.snapshot_seconds=1") as client:
        client.observe(parts[2])
        time.sleep(3.0)
    with server(folder, uri, state, "--serving.snapshot_seconds=3600") as client:
        client.delete_series("last")
        client.observe(parts[3].filter(pl.col("unique_id") != "last"))
        return facts(client, frame)


def pyfunc(uri: str, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return what the registered version forecasts as MLflow loads it."""
    program = (
        "import sys, mlflow, pandas as pd; mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])\n"
        "types = {'unique_id': str, 'y': float, 'promo': float, 'area': float}\n"
        "frame = pd.read_json(sys.stdin, orient='records', dtype=types)\n"
        "frame['ds'] = pd.to_datetime(frame['ds']).dt.tz_localize(None)\n"
        "print('FOUND' + mlflow.pyfunc.load_model('models:/forecaster/1').predict(frame)"
        ".to_json(orient='records', date_format='iso', double_precision=12))"
    )
    given = json.dumps(plain(frame))
    settings = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, uri], input=given, capture_output=True, text=True, check=False, env=settings
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.partition("FOUND")[2])  # type: ignore[no-any-return]


def moved(database: pathlib.Path, here: str, there: str) -> None:
    """Let a model store's addresses say another folder."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for column in COLUMNS:
            table, name = column.split(".")
            connection.execute(f"UPDATE {table} SET {name} = replace({name}, ?, ?)", (here, there))


def scrubbed(store: pathlib.Path) -> None:
    """Let no path of the machine stand in a model store: what is served does not need them."""
    here = {str(pathlib.Path.cwd()): "/project", sys.prefix: "/environment", sys.base_prefix: "/python"}
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")]
        for place, name in here.items():
            for table, column in columns:
                query = f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?'
                connection.execute(query, (place, name, f"%{place}%"))
    for path in (store / "artifacts").rglob("*"):
        if path.is_file() and path.suffix not in (".safetensors", ".webp"):
            text = path.read_text()
            for place, name in here.items():
                text = text.replace(place, name)
            path.write_text(text)


def packed(target: pathlib.Path, folder: pathlib.Path) -> None:
    """Write a folder's files as an archive."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(folder, ".")


def unpacked(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Read an archive into a folder and return it."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    return folder


def dumped(cluster: Cluster, database: str) -> str:
    """Return a database as statements, without what a newer `psql` than the maker's would not know."""
    found = programs()
    assert found is not None
    where = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", ADMINISTRATOR, "--no-owner", "--no-privileges"]
    text = subprocess.run(
        [found / "pg_dump", *where, "--inserts", database], capture_output=True, text=True, check=True
    )
    return re.sub(r"^(SET |SELECT pg_catalog.set_config|\\).*\n", "", text.stdout, flags=re.MULTILINE)


def make(target: pathlib.Path) -> None:
    """Make all of it."""
    target.mkdir(parents=True, exist_ok=True)
    frame = rows()
    with tempfile.TemporaryDirectory() as name, running_cluster() as cluster:
        folder = pathlib.Path(name)
        store = folder / "store"
        store.mkdir()
        uri = f"sqlite:///{store}/mlflow.db"
        frame.write_csv(folder / "mine.csv")
        data = (f"--data.path={folder}/mine.csv", "--data.frequency=1h", "--data.future_covariates=[promo]")
        static = ("--data.static_covariates=[area]", "--data.static_categories=[region]")
        small = ("--model.horizon=6", "--model.hidden_size=8", "--model.decoder_size=8", "--model.season_lengths=[24]")
        short = ("--training.max_epochs=1", "--training.min_updates=20")
        trained = command("train", f"--tracking.uri={uri}", f"--tracking.artifacts={store}/artifacts", *data, *static,
                          *small, *short, log=folder / "log")  # fmt: skip
        if trained.wait():
            raise RuntimeError((folder / "log").read_text())
        found = {"folder": fill(folder, uri, str(folder / "state"), frame)}
        database = cluster.create_database()
        found["postgres"] = fill(folder, uri, cluster.url(database), frame)
        (target / "postgres.sql.xz").write_bytes(lzma.compress(dumped(cluster, database).encode(), preset=9))
        facts = found | {"pyfunc": pyfunc(uri, frame)}
        (target / "facts.json").write_text(json.dumps(facts, ensure_ascii=False))
        for path in store.rglob("*"):  # pictures, checkpoints: what nobody serves
            if path.suffix in (".png", ".webp", ".html", ".ckpt", ".parquet", ".csv"):
                path.unlink()
        moved(store / "mlflow.db", str(store), STORE)
        scrubbed(store)
        with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as connection:
            connection.execute("VACUUM")
        packed(target / "store.tar.xz", store)
        packed(target / "state.tar.xz", folder / "state")


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
