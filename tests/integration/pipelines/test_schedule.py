"""The scheduler with real clocks, real signals and real processes; a stand-in for the retraining says what it got."""

import io
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml

from forecaster.config import TrackingConfig, to_dict
from forecaster.errors import ConfigError
from forecaster.registry import registry
from pipelines.memory import Memory
from pipelines.schedule.step import Event, Loop, run
from pipelines.watching.watch import DRIFT, NEW_OBSERVATIONS, memory_path
from tests.integration.pipelines.scheduling import Played, scheduled


def test_an_interval_asks_again_and_again_with_the_whole_configuration(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    config = scheduled(tmp_path, tracking, every="1s", lease="postgresql://me:secret@db/x")
    played = Played(tmp_path, config)
    played.play(lambda: played.until(lambda: played.count("end") >= 3), signal.SIGINT)
    assert played.status == 0
    assert set(played.triggers()) == {"interval"}
    begins = [line for line in played.said if line["what"] == "begin"]
    assert all(0.5 < b["at"] - a["at"] < 2.5 for a, b in itertools.pairwise(begins)), begins
    assert {line["mode"] for line in begins} == {"0o600"}
    assert begins[0]["options"] == ["--config", "--trigger"]
    assert yaml.safe_load(begins[0]["text"]) == to_dict(config)
    assert not pathlib.Path(begins[0]["config"]).parent.exists()
    assert "at work\nthe last words\n" in played.stream.getvalue()


def test_between_retrainings_it_ingests(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    played = Played(tmp_path, scheduled(tmp_path, tracking, every="3s", ingest_every="1s"), seconds=0.2)
    played.play(lambda: played.until(lambda: len(played.triggers()) == 2))
    steps = [line["step"] for line in played.said if line["what"] == "begin"]
    assert steps[0] == "ingest"  # at once
    assert 5 <= steps.count("ingest") <= 7
    whats = [line["what"] for line in played.said]
    assert whats[: len(whats) // 2 * 2 : 2] == ["begin"] * (len(whats) // 2)  # one at a time
    assert Memory.load(memory_path(played.config)).unfinished in (None, "interval")


def test_what_comes_while_one_runs_is_remembered_once(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    played = Played(tmp_path, scheduled(tmp_path, tracking, every="1s"), seconds=3.3)
    played.play(lambda: played.until(lambda: played.count("begin") == 2))
    first, end, second = played.said[:3]
    assert (first["what"], end["what"], second["what"]) == ("begin", "end", "begin")  # never two at once
    assert second["at"] - end["at"] < 1.0  # at once, for the three that came meanwhile
    assert played.stream.getvalue().count("once more") == 1


def test_what_was_seen_before_a_retraining_began_asks_for_no_second_one(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    played = Played(tmp_path, scheduled(tmp_path, tracking, every="1h"), seconds=600)
    loop = Loop(played.config, played.command(), played.stream)
    loop._begin("cron")
    try:
        for trigger in (DRIFT, NEW_OBSERVATIONS):  # were in the queue behind it
            come(loop, trigger)
        assert loop._plan.pending is None
        come(loop, "interval")
        assert loop._plan.pending == "interval"
        played.until(lambda: played.count("begin") == 1)
    finally:
        loop.stop()
    loop._attempt = None
    loop._plan.pending = None
    come(loop, DRIFT)
    assert loop._plan.pending == DRIFT


def test_sigterm_ends_the_retraining_and_the_next_start_goes_on(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    config = scheduled(tmp_path, tracking, every="1s")
    played = Played(tmp_path, config, seconds=600)
    played.play(lambda: played.until(lambda: played.count("begin") == 1))
    assert played.status == 0
    assert played.count("asked to end") == 1
    assert not pathlib.Path(played.said[0]["config"]).parent.exists()
    assert Memory.load(memory_path(config)).unfinished == "interval"

    again = Played(tmp_path, scheduled(tmp_path, tracking, cron="0 3 1 1 *"))  # no time that comes now
    again.play(lambda: again.until(lambda: "the retraining has ended" in again.stream.getvalue()))
    assert again.triggers() == ["interval", "interval"]
    assert Memory.load(memory_path(config)).unfinished is None


def test_a_retraining_that_does_not_end_is_killed(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    config = scheduled(tmp_path, tracking, every="1s", stop_seconds=0.5)
    played = Played(tmp_path, config, seconds=600, manner="deaf")
    asked: list[float] = []

    def script() -> None:
        played.until(lambda: played.count("begin") == 1)
        asked.append(time.monotonic())

    played.play(script)
    assert time.monotonic() - asked[0] < 10
    assert played.status == 0
    with pytest.raises(ProcessLookupError):
        os.kill(played.said[0]["pid"], 0)


def test_failures_are_tried_again_later_and_later_and_leave_failed_runs(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    config = scheduled(tmp_path, tracking, every="1h", retries=2, retry_seconds=0.6)
    Memory(path=memory_path(config), began=time.time() - 7200.0).save()  # one is due, the next is not
    played = Played(tmp_path, config, code=3)
    played.play(lambda: played.until(lambda: "given up" in played.stream.getvalue()))
    begins = [line["at"] for line in played.said if line["what"] == "begin"]
    ends = [line["at"] for line in played.said if line["what"] == "end"]
    assert len(begins) == 3
    first, second = (begin - end for begin, end in zip(begins[1:], ends, strict=False))
    assert first > 0.6
    assert second > 1.2
    client = registry.connect(tracking)
    runs = client.search_runs([registry.experiment_id(client, tracking)], order_by=["attributes.start_time ASC"])
    assert [one.info.status for one in runs] == ["FAILED"] * 3
    assert [one.data.tags["attempt"] for one in runs] == ["1", "2", "3"]
    assert {(one.data.tags["step"], one.data.tags["trigger"]) for one in runs} == {("retrain", "interval")}
    assert {one.data.tags["error"] for one in runs} == {"the last words"}
    output = pathlib.Path(client.download_artifacts(runs[0].info.run_id, "output.txt", str(tmp_path)))
    assert output.read_text() == "at work\nthe last words\n"
    assert Memory.load(memory_path(config)).unfinished is None


def come(loop: Loop, name: str) -> None:
    """Let a loop take note of a trigger."""
    loop.handle(Event(name, loop._clock()))


def test_what_asks_while_failures_are_repeated_is_answered_by_them(
    tmp_path: pathlib.Path, tracking: TrackingConfig
) -> None:
    """Real processes, and a clock that only the test moves."""
    now = [1000.0]
    played = Played(tmp_path, scheduled(tmp_path, tracking, every="1h", retries=2, retry_seconds=60.0), code=3)
    loop = Loop(played.config, played.command(), played.stream, lambda: now[0])

    def begun(after_seconds: float) -> int:
        now[0] += after_seconds
        loop.begin_due()
        return played.stream.getvalue().count("a retraining begins")

    come(loop, "interval")
    assert begun(0.0) == 1
    loop.handle(loop.events.get(timeout=180))  # it has ended, and failed
    assert begun(59.0) == 1
    come(loop, "cron")  # while the next is waited for
    assert begun(0.0) == 1
    assert begun(1.0) == 2
    loop.handle(loop.events.get(timeout=180))
    assert begun(119.0) == 2
    assert begun(1.0) == 3
    come(loop, "interval")  # while the last attempt is under way
    ended = loop.events.get(timeout=180)
    loop.send("cron")  # in the queue before the last attempt is known to have failed
    loop.handle(ended)
    assert "interval: given up" in played.stream.getvalue()
    loop.handle(loop.events.get_nowait())
    assert begun(10_000.0) == 3
    assert "once more" not in played.stream.getvalue()

    come(loop, "interval")  # the next that is due
    assert begun(0.0) == 4
    loop.handle(loop.events.get(timeout=180))
    assert played.triggers() == ["interval"] * 4


def test_a_command_that_cannot_be_started_is_tried_again(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    class Missing(Played):
        def command(self) -> list[str]:
            return [str(tmp_path / "no-such-program")]

    played = Missing(tmp_path, scheduled(tmp_path, tracking, every="1s", retries=1, retry_seconds=0.1))
    played.play(lambda: played.until(lambda: "given up" in played.stream.getvalue()))
    assert played.status == 0


def test_misfires_coalesce(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    """A scheduler that was stopped for seconds, as a sleeping machine is, makes up for all of it once."""
    played = Played(tmp_path, scheduled(tmp_path, tracking, every="2s"))
    text = "import sys; from forecaster.arguments import *; from pipelines.schedule.step import run\n"
    text += "parser = command_parser(''); add_config_arguments(parser, ())\n"
    text += "sys.exit(run(read_config(parse(parser, sys.argv[1:3])), sys.argv[3:], sys.stderr))"
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(played.config)))
    with subprocess.Popen([sys.executable, "-c", text, "--config", str(file), *played.command()]) as scheduler:
        try:
            played.until(lambda: played.count("end") == 1)
            scheduler.send_signal(signal.SIGSTOP)
            time.sleep(9.0)  # four or five were due
            before = played.count("begin")
            scheduler.send_signal(signal.SIGCONT)
            played.until(lambda: played.count("begin") > before + 4)
        finally:
            scheduler.terminate()
            status = scheduler.wait(180)
    assert status == 0
    begun = [line["at"] for line in played.said if line["what"] == "begin"]
    due = 1 + (begun[before + 4] - begun[0]) / 2
    assert before + 5 <= due - 2  # one for each would be `due`; a process may take two seconds to begin


def test_nothing_to_wait_for_is_said_in_one_line(tmp_path: pathlib.Path, tracking: TrackingConfig) -> None:
    with pytest.raises(ConfigError, match="nothing to wait for"):
        run(scheduled(tmp_path, tracking), ["true"], io.StringIO())
