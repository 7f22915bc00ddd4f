"""Real servers whose files are torn, corrupted or cannot be written, and what is left of a deleted series."""

import datetime as dt
import pathlib
import re
import resource
import sqlite3
import struct
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing

import grpc
import polars as pl
import pytest
from google.rpc import error_details_pb2, status_pb2

from forecaster.cli import main
from forecaster.client import ForecastClient, RetryPolicy
from forecaster.client.calls import observe_call
from forecaster.errors import SeriesNotFoundError, UnavailableError
from forecaster.serving.storage.sqlite.history import scan
from forecaster.v1.forecast_service_pb2_grpc import ForecastServiceStub
from tests.integration.conftest import START, Server, ServerFactory, wander
from tests.integration.server.test_server_journey import assert_forecasts_are_the_offline_models

HOURS = 40
OFTEN = ("--serving.snapshot_seconds=0.1", "--serving.journal_seconds=0.3")
FEW = ("--serving.max_resident_series=8", "--serving.max_batch_observations=8", "--serving.max_request_observations=8")
Start = Callable[..., tuple[Server, str]]


@pytest.fixture
def start(servers: ServerFactory) -> Start:
    """Return what starts a server and says its address."""

    def begin(*options: str) -> tuple[Server, str]:
        server = servers(*options)
        return server, server.address

    return begin


@pytest.fixture
def state(servers: ServerFactory) -> pathlib.Path:
    """Return where the server's files are."""
    return servers.folder / "state" / "forecaster"


def hour_by_hour(address: str, series: int, hours: range, *, at_once: int = 10**6) -> tuple[int, int]:
    """Send hours one after the other; return how many rows were new and how many were not."""
    applied = duplicates = 0
    with ForecastClient(address) as client:
        for hour in hours:
            for part in wander(series, 1, start=hour).iter_slices(at_once):
                result = client.observe(part)
                result.raise_for_rejections()
                applied, duplicates = applied + result.applied, duplicates + result.duplicates
    return applied, duplicates


def flip(path: pathlib.Path, at: int) -> None:
    """Change a byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def until(what: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_torn_end_of_the_log_is_given_again(start: Start, servers: ServerFactory, state: pathlib.Path) -> None:
    """What a disk lost in spite of its promise is missing whole, and a client that repeats everything fills it."""
    server, address = start("--serving.snapshot_seconds=0.1")
    assert hour_by_hour(address, 3, range(HOURS)) == (3 * HOURS, 0)
    time.sleep(0.5)  # snapshots of states that the journal will not know any more
    server.kill()
    log = state / "journal.db-wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 20_000)
    line = servers.refused()
    assert f"but records up to {HOURS} were acknowledged" in line
    server, address = start(line[line.index("--serving.accept") : line.index(": clients")].replace(" ", "="))
    with ForecastClient(address) as client:
        lengths = {info.length for info in client.list_series()}
        assert len(lengths) == 1
        kept = lengths.pop()
        assert 0 < kept < HOURS
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, kept))
        assert hour_by_hour(address, 3, range(HOURS)) == (3 * (HOURS - kept), 3 * kept)
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, HOURS))


def test_a_changed_byte_of_the_journal_keeps_a_server_from_starting(
    start: Start, servers: ServerFactory, state: pathlib.Path
) -> None:
    server, address = start()
    hour_by_hour(address, 3, range(HOURS))
    server.kill()
    with closing(sqlite3.connect(state / "journal.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    value = wander(1, 1, start=HOURS // 2)["y"][0]
    assert value is not None
    flip(state / "journal.db", (state / "journal.db").read_bytes().index(struct.pack("<d", value)))
    line = servers.refused()
    assert "journal.db: record" in line
    assert "is corrupted" in line
    assert "restore" in line


@pytest.mark.parametrize("where", ["header", "pages"])
def test_a_corrupted_cache_is_rebuilt(start: Start, servers: ServerFactory, state: pathlib.Path, where: str) -> None:
    server, address = start()
    hour_by_hour(address, 60, range(20))
    assert server.stop() == 0
    path = state / "snapshots.db"
    size = path.stat().st_size
    assert size > 80_000
    with path.open("r+b") as file:
        file.seek(0 if where == "header" else 3 * 8192)
        file.write(bytes(range(256)) * (32 if where == "header" else (size - 3 * 8192) // 256))
    _, address = start()
    with ForecastClient(address) as client:
        assert [info.length for info in client.list_series()] == [20] * 60
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(60, 20))
    assert hour_by_hour(address, 60, range(22)) == (120, 1200)


def test_corrupted_snapshots_of_cold_series_are_folded_again(
    start: Start, servers: ServerFactory, state: pathlib.Path
) -> None:
    server, address = start(*FEW)
    hour_by_hour(address, 24, range(20), at_once=8)
    assert server.stop() == 0
    with closing(sqlite3.connect(state / "snapshots.db")) as database, database:
        for row, packed in database.execute("SELECT rowid, state FROM snapshots").fetchall():
            changed = packed[:64] + bytes([packed[64] ^ 1]) + packed[65:]
            database.execute("UPDATE snapshots SET state = ? WHERE rowid = ?", (changed, row))
    server, address = start(*FEW, "--serving.snapshot_seconds=0.1")
    with ForecastClient(address) as client:
        assert [client.get_series(f"s{k}").length for k in range(24)] == [20] * 24
        assert [info.length for info in client.list_series()] == [20] * 24
        for k in range(0, 24, 8):
            mine = wander(24, 20).filter(pl.col("unique_id").is_in([f"s{j}" for j in range(k, k + 8)]))
            assert_forecasts_are_the_offline_models(client, servers.bundle, mine)
    assert hour_by_hour(address, 24, range(21), at_once=8) == (24, 480)


def test_a_full_disk_refuses_what_must_be_written_and_nothing_else(
    start: Start, servers: ServerFactory, state: pathlib.Path
) -> None:
    server, address = start(*OFTEN)
    hour_by_hour(address, 3, range(HOURS))
    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    with (
        grpc.insecure_channel(address) as channel,
        ForecastClient(address) as client,
        ForecastClient(address, retry=RetryPolicy(timeout_seconds=0.1)) as hasty,
    ):
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (64, before[1]))
        call = observe_call(wander(3, 1, start=HOURS), None, "", None)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as refused:
                ForecastServiceStub(channel).Observe(call.request)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            status = status_pb2.Status()
            status.ParseFromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"])
            assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
            assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, HOURS))
        with pytest.raises(UnavailableError):
            hasty.delete_series("s0")
        time.sleep(0.5)  # snapshots and pruning fail too
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        assert client.observe(wander(3, 1, start=HOURS)).applied == 3
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, HOURS + 1))
        until(lambda: not scan(state / "history").filter(unique_id="s2").collect().is_empty())
    server.kill()
    _, address = start()
    with ForecastClient(address) as client:
        assert_forecasts_are_the_offline_models(client, servers.bundle, wander(3, HOURS + 1))
    assert hour_by_hour(address, 3, range(HOURS + 2)) == (3, 3 * (HOURS + 1))


def test_nothing_is_left_of_a_deleted_series(start: Start, state: pathlib.Path) -> None:
    name, values = "secret meter 4711", [98765.4321 + hour for hour in range(HOURS)]
    secrets = [name.encode(), *(struct.pack("<d", v) for v in values), *(struct.pack("<f", v) for v in values)]
    frame = wander(1, HOURS).with_columns(unique_id=pl.lit(name), y=pl.Series(values))

    def left() -> list[str]:
        files = [path for path in state.rglob("*") if path.is_file()]
        return [path.name for path in files for secret in secrets if secret in path.read_bytes()]

    def in_history() -> bool:
        return not scan(state / "history").filter(unique_id=name).collect().is_empty()

    server, address = start(*OFTEN)
    with ForecastClient(address) as client:
        client.observe(wander(3, HOURS))
        client.observe(frame)
        client.forecast([name])
        assert left()
        until(in_history)
        client.observe(frame.with_columns(pl.col("ds").dt.offset_by(f"{HOURS}h")))  # in the journal too
        client.delete_series(name)
        with pytest.raises(SeriesNotFoundError):
            client.get_series(name)
        until(lambda: not left() and not in_history(), 5)
        assert [info.unique_id for info in client.list_series()] == ["s0", "s1", "s2"]
    server.kill()
    _, address = start()
    with ForecastClient(address) as client:
        with pytest.raises(SeriesNotFoundError):
            client.get_series(name)
        assert not left()
        assert client.observe(frame).applied == HOURS  # it may begin anew


def test_a_damaged_history_file_stops_nobody_else(
    start: Start, servers: ServerFactory, state: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deletions, pruning and a start go on; metrics, the log and the check name the file."""
    server, address = start(*OFTEN, "--serving.metrics_port=0")
    hour_by_hour(address, 3, range(HOURS))
    until(lambda: not scan(state / "history").filter(unique_id="s2").collect().is_empty())
    server.kill()
    for path in (state / "history").glob("*.parquet"):
        flip(path, path.stat().st_size // 3)
    server, address = start(*OFTEN, "--serving.metrics_port=0")
    (port,) = re.findall(r"metrics on http://127\.0\.0\.1:(\d+)/", server.log.read_text())

    def damaged() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            return bool(re.search(r"^forecaster_history_damaged_parts\{.*\} [1-9]", page.read().decode(), re.MULTILINE))

    with ForecastClient(address) as client:
        client.delete_series("s1")  # nobody can look into the file for it
        until(damaged)
        assert client.observe(wander(3, 20, start=HOURS)).applied == 60
        until(
            lambda: (
                not scan(state / "history")
                .filter(pl.col("ds") >= START + dt.timedelta(hours=HOURS))
                .collect()
                .is_empty()
            )
        )
        assert [(info.unique_id, info.length, info.failure) for info in client.list_series()] == [
            ("s0", HOURS + 20, ""),
            ("s1", 20, ""),
            ("s2", HOURS + 20, ""),
        ]
        assert main(["health", "--server", address]) == 0
    assert main(["verify-state", f"--serving.state={state.parent}"]) == 1
    assert "it is not what was written" in capsys.readouterr().out
    assert server.log.read_text().count("cannot be read (it is not what was written)") < 5
