"""Who retrains, on both databases: one at a time, a dead holder is not waited for, a lost lease is known."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from forecaster.config import Config, IngestConfig, ScheduleConfig, TrackingConfig
from forecaster.errors import ConfigError, FencedError, StorageError
from pipelines import lease
from pipelines.lease import RetrainingLease, held, lease_url
from tests.postgres import Cluster

HOLDER = """
import sys, time
from pipelines.lease import RetrainingLease
one = RetrainingLease(sys.argv[1], "load", lease_seconds=float(sys.argv[2]), wait_seconds=0)
print(one.token, flush=True)
sys.stdin.readline()
try:
    one.check()
    print("held", flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Return the URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'lease.db'}"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.url(cluster.create_database())


def take(url: str, *, wait_seconds: float = 0.0, lease_seconds: float = 30.0, name: str = "load") -> RetrainingLease:
    return RetrainingLease(url, name, lease_seconds=lease_seconds, wait_seconds=wait_seconds)


@contextlib.contextmanager
def holder(url: str, lease_seconds: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the lease until a line comes, and then says whether it still does."""
    command = [sys.executable, "-c", HOLDER, url, str(lease_seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()


def row(url: str) -> sa.RowMapping:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg") if "postgres" in url else url)
    with engine.connect() as connection:
        found = connection.execute(sa.select(lease._TABLE)).mappings().one()
    engine.dispose()
    return found


def test_one_at_a_time_and_each_gets_a_higher_token(url: str) -> None:
    tokens = []
    for _ in range(3):
        one = take(url)
        with pytest.raises(StorageError) as refused:
            take(url)
        assert re.search(
            rf"'load' is being retrained by process {os.getpid()} on \S+ since \d{{4}}-\S+ \S+ UTC", str(refused.value)
        )
        assert "\n" not in str(refused.value)
        one.check()
        tokens.append(one.token)
        one.close()
    assert tokens == [1, 2, 3]


def test_models_do_not_stand_in_each_others_way(url: str) -> None:
    one, other = take(url), take(url, name="price")
    one.close()
    other.close()


def test_of_many_at_once_one_gets_it(url: str) -> None:
    take(url).close()
    got: list[RetrainingLease] = []
    refused: list[StorageError] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        try:
            got.append(take(url))
        except StorageError as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7), refused
    assert all("is being retrained by" in str(error) for error in refused)
    got[0].close()


def test_who_waits_gets_it_when_it_is_given_back(url: str) -> None:
    one = take(url)
    threading.Timer(0.3, one.close).start()
    began = time.monotonic()
    take(url, wait_seconds=20).close()
    assert 0.2 < time.monotonic() - began < 10


def test_it_is_renewed_for_as_long_as_it_is_held(url: str) -> None:
    one = take(url, lease_seconds=0.6)
    first = row(url)["expires_at"]
    with pytest.raises(StorageError, match="is being retrained"):
        take(url, wait_seconds=1.5)
    assert row(url)["expires_at"] > first + 0.6
    one.check()
    one.close()


def test_a_holder_of_this_machine_that_was_killed_is_not_waited_for(url: str) -> None:
    with holder(url) as process:
        with pytest.raises(StorageError, match=f"process {process.pid} "):
            take(url)
        process.kill()
        process.wait()
        began = time.monotonic()
        one = take(url)
        assert time.monotonic() - began < 5
        assert one.token == 2
        one.close()


def test_a_killed_process_that_nobody_has_waited_for_is_gone_too(url: str) -> None:
    with holder(url) as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        take(url).close()


def test_a_killed_holder_of_another_machine_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(url, lease_seconds=1.5) as process:
        process.kill()
        process.wait()
        expires = row(url)["expires_at"]
        monkeypatch.setattr(lease, "_machine", lambda: "another")
        with pytest.raises(StorageError, match="is being retrained"):
            take(url)
        one = take(url, wait_seconds=20)
        assert row(url)["since"] >= expires
        one.close()


def test_a_process_id_that_came_again_is_another_process(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lease.Holder.this_process()
    monkeypatch.setattr(lease.Holder, "this_process", lambda: lease.Holder(before.machine, "h", before.pid, 1))
    lost = take(url)
    monkeypatch.undo()
    one = take(url)
    with pytest.raises(FencedError):
        lost.check()
    one.close()
    lost.close()


def test_a_paused_holder_learns_that_it_lost_the_lease(url: str) -> None:
    with holder(url, lease_seconds=0.5) as process:
        process.send_signal(signal.SIGSTOP)
        one = take(url, wait_seconds=20)
        assert one.token == 2
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("\n", timeout=180)
        assert said.startswith("FencedError the lease of 'load' ran out and was taken over by process")
        one.check()
        one.close()


def test_what_a_loser_gives_back_is_not_the_winners(url: str) -> None:
    with holder(url, lease_seconds=0.5) as process:
        process.send_signal(signal.SIGSTOP)
        one = take(url, wait_seconds=20)
        process.send_signal(signal.SIGCONT)
        process.communicate("\n", timeout=180)
        with pytest.raises(StorageError, match="is being retrained"):
            take(url)
        one.close()


def test_a_database_that_is_away_for_a_moment_loses_nothing(postgres: Cluster) -> None:
    url = postgres.url(postgres.create_database())
    one = take(url, lease_seconds=2.0)
    with postgres.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'forecaster'")
    before = row(url)["expires_at"]
    deadline = time.monotonic() + 180
    while row(url)["expires_at"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    one.check()
    one.close()


def test_the_file_lies_beside_the_data_set(tmp_path: pathlib.Path) -> None:
    config = Config(ingest=IngestConfig(output=str(tmp_path / "new" / "dataset")), tracking=TrackingConfig(model="m"))
    with held(config) as mine:
        assert (tmp_path / "new" / "dataset.lease.db").is_file()
        mine.check()
        with pytest.raises(StorageError, match="'m' is being retrained by"), held(config, wait_seconds=0.2):
            pass
    with held(config):
        pass


@pytest.mark.parametrize("url", ["mysql://host/db", "nothing"])
def test_another_kind_of_database_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.lease"), held(Config(schedule=ScheduleConfig(lease=url))):
        pass


def test_a_database_that_is_not_there_is_said_in_one_line() -> None:
    url = "postgresql://someone:secret@127.0.0.1:9/none"
    with pytest.raises(StorageError) as error, held(Config(schedule=ScheduleConfig(lease=url))):
        pass
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_configured_url_wins() -> None:
    assert lease_url(Config(schedule=ScheduleConfig(lease="postgresql://h/db"))) == "postgresql://h/db"
