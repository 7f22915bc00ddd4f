"""Trials that processes share: exactly so many count, and what a killed process leaves behind is done by another.

The processes are real ones, on a journal file and on PostgreSQL.
"""

import contextlib
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from forecaster.errors import ConfigError, UnavailableError
from pipelines.tuning.storage import open_study
from pipelines.tuning.study import REASON, Trials, sign_of_life
from tests.postgres import Cluster

Opener = Callable[..., Trials]

WORKER = """
import sys, time
from pipelines.tuning.study import Trials
from pipelines.tuning.storage import open_study

storage, total, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with open_study(storage, "shared", startup=2) as study:
    trials = Trials(study, total=total, startup=2, seed=1, on_left_behind=lambda trial: None)
    while (trial := trials.take()) is not None:
        x = trial.suggest_float("x", -1, 1)
        print(trial.number, flush=True)
        time.sleep(seconds)
        trials.complete(trial, x * x)
"""


@pytest.fixture(params=["journal", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "journal":
        return str(tmp_path / "study.journal")
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.url(cluster.create_database())


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Return what opens a study's trials; they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_trials(storage: object, total: int, **options: Any) -> Trials:
            study = stack.enter_context(open_study(str(storage), "shared", startup=2))
            options = {"on_left_behind": lambda trial: None, **options}
            return Trials(study, total=total, startup=2, seed=1, **options)

        yield open_trials


def worker(storage: str, total: int, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, storage, str(total), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(trials: Trials) -> list[dict[str, Any]]:
    """Take all trials; return their parameters."""
    drawn = []
    while (trial := trials.take()) is not None:
        drawn.append({"x": trial.suggest_float("x", -1, 1)})
        trials.complete(trial, drawn[-1]["x"] ** 2)
    return drawn


def take(trials: Trials) -> Trial:
    trial = trials.take()
    assert trial is not None
    return trial


def test_processes_together_make_exactly_the_total(storage: str, opened: Opener) -> None:
    workers = [worker(storage, 8, 0.05) for _ in range(3)]
    done = [one.communicate(timeout=180)[0].split() for one in workers]
    assert [one.returncode for one in workers] == [0, 0, 0]
    assert len({number for numbers in done for number in numbers}) == 8
    trials = opened(storage, 8)
    states = [trial.state for trial in trials.study.trials if trial.params]
    assert states == [TrialState.COMPLETE] * 8
    assert len({trial.params["x"] for trial in trials.counted()}) == 8  # no two draw the same
    assert trials.take() is None


def test_what_a_killed_process_leaves_behind_is_repeated(storage: str, opened: Opener) -> None:
    with worker(storage, 3, 600.0) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "0\n"
        killed.kill()
    left: list[int] = []
    trials = opened(storage, 3, on_left_behind=lambda trial: left.append(trial.number))
    began = time.monotonic()
    drawn = run(trials)
    assert time.monotonic() - began < 20  # nobody waits for a process of this machine that is gone
    first, *others = trials.study.trials
    assert (left, first.state) == ([0], TrialState.FAIL)
    assert drawn[0] == first.params
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 3
    assert len(trials.counted()) == 3


def test_a_process_on_another_machine_has_to_be_silent_for_a_while(tmp_path: pathlib.Path, opened: Opener) -> None:
    trials = opened(tmp_path / "journal", 1, silent_seconds=2.0)
    other = trials.study.ask()
    other.suggest_float("x", -1, 1)
    other.set_user_attr("owner", {"machine": "elsewhere/1", "pid": 1, "started": 0.0})
    taken: list[Trial | None] = []
    thread = threading.Thread(target=lambda: taken.append(trials.take()))
    with sign_of_life(other, seconds=0.1):
        thread.start()
        thread.join(4)
        assert not taken  # it lives, and has the last trial
    thread.join(180)
    (again,) = taken
    assert again is not None
    assert again.suggest_float("x", -1, 1) == other.params["x"]
    assert trials.complete(again, 1.0)
    assert not trials.complete(other, 2.0)  # it was only slow, and comes too late
    assert trials.study.best_value == 1.0


def test_a_trial_that_kills_every_process_is_not_repeated_for_ever(tmp_path: pathlib.Path, opened: Opener) -> None:
    trials = opened(tmp_path / "journal", 1)
    for _ in range(3):
        take(trials).suggest_float("x", -1, 1)  # and this process takes the next one, so this one was left behind
    assert trials.take() is None
    (failed,) = trials.counted()
    assert failed.user_attrs[REASON] == "the process that ran it was killed, 3 times"


def test_an_interrupted_trial_is_repeated_however_often(tmp_path: pathlib.Path, opened: Opener) -> None:
    trials = opened(tmp_path / "journal", 1)
    drawn = set()
    for _ in range(5):
        trial = take(trials)
        drawn.add(trial.suggest_float("x", -1, 1))
        trials.leave(trial)
    assert len(drawn) == 1
    assert run(trials) == [{"x": drawn.pop()}]


def test_failures_with_a_reason_count(tmp_path: pathlib.Path, opened: Opener) -> None:
    trials = opened(tmp_path / "journal", 2)
    trial = take(trials)
    trial.suggest_float("x", -1, 1)
    trials.fail(trial, "too wide")
    assert len(run(trials)) == 1
    assert [one.user_attrs.get(REASON) for one in trials.counted()] == ["too wide", None]


def test_a_search_that_was_interrupted_draws_what_it_would_have_drawn(tmp_path: pathlib.Path, opened: Opener) -> None:
    whole = run(opened(tmp_path / "whole", 6))
    parts = [*run(opened(tmp_path / "parts", 3)), *run(opened(tmp_path / "parts", 6))]
    assert parts == whole


def test_half_a_line_at_the_journals_end_is_cut_off(tmp_path: pathlib.Path, opened: Opener) -> None:
    path = tmp_path / "journal"
    run(opened(path, 2))
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "stu')
    assert len(run(opened(path, 4))) == 2
    assert len(opened(path, 4).counted()) == 4


@pytest.mark.parametrize(
    ("storage", "error", "said"),
    [
        ("nonsense://x/y", ConfigError, "tuning.storage=nonsense://x/y is no URL of a database, nor a file"),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            UnavailableError,
            r"the study in postgresql://me:\*\*\*@127.0.0.1:1/x",
        ),
        ("/proc/nowhere/journal", UnavailableError, "the study in /proc/nowhere/journal cannot be used"),
    ],
)
def test_storage_that_cannot_be_used(storage: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as found, open_study(storage, "shared", startup=2):
        pass
    assert "\n" not in str(found.value)
    assert "secret" not in str(found.value)


def test_optunas_settings_are_given_back(tmp_path: pathlib.Path) -> None:
    before = optuna.logging.get_verbosity()
    with contextlib.suppress(KeyError), open_study(str(tmp_path / "journal"), "shared", startup=2):
        assert optuna.logging.get_verbosity() == optuna.logging.ERROR
        raise KeyError
    assert optuna.logging.get_verbosity() == before
