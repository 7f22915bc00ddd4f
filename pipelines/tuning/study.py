"""A search's trials, which several processes share: who has which, which are left behind, how many are to come.

A trial is taken by one process. It counts once it is complete, cut short, or failed for a reason that would come again;
what a process leaves behind when it is killed or interrupted is failed without one, and repeated by whoever is there.
A process on the same machine is asked for; of one elsewhere the sign of life has to stay the same for a while, by the
clock of who watches.

Knows Optuna; knows nothing of configurations, of training or of MLflow.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

REASON, RUN = "reason", "run_id"  # a trial's own notes: why it failed, and its run in MLflow
_OWNER, _SIGN, _KILLS = "owner", "sign_of_life", "kills"
_SIGN_SECONDS, _SILENT_SECONDS = 10.0, 60.0
_POLL_SECONDS = 0.5
_MOST_KILLS = 3  # a trial whose process dies every time takes too much memory
_CLOCK_SECONDS = 5.0  # by which a process's start may seem to move when the clock is set
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "cut short", TrialState.FAIL: "failed"}  # for people
_OPEN = (TrialState.RUNNING, TrialState.WAITING)


class Trials:
    """The trials of one study, of which this process takes one at a time.

    Args:
        study: as others have opened it too.
        total: how many are to count.
        startup: how many are drawn at random.
        seed: of the draws; a trial's follow from it and from the trial's number, whoever draws.
        on_left_behind: told of each trial that this process gives up for another that is gone.
        silent_seconds: after which a process on another machine is taken for gone.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        total: int,
        startup: int,
        seed: int,
        on_left_behind: Callable[[FrozenTrial], None],
        silent_seconds: float = _SILENT_SECONDS,
    ) -> None:
        self.study = study
        self._total, self._startup, self._seed = total, startup, seed
        self._on_left_behind, self._silent_seconds = on_left_behind, silent_seconds
        self._signs: dict[int, tuple[Any, float]] = {}  # by number: the last sign of life, and since when it stands

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that count."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if _counts(trial)]

    def take(self) -> Trial | None:
        """Return the next trial, or None when all are done; waits while the last ones are other processes'."""
        while True:
            self._give_up_what_is_left_behind()
            trials = self.study.get_trials(deepcopy=False)
            if sum(map(_counts, trials)) >= self._total:
                return None
            waiting = any(trial.state is TrialState.WAITING for trial in trials)
            if waiting or sum(map(_is_taken, trials)) < self._total:
                trial = self.study.ask()
                trial.set_user_attr(_OWNER, _identity())
                if self._is_one_of_the_total(trial.number):
                    seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
                    self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup)
                    return trial
                self.study.tell(trial, state=TrialState.FAIL)  # another process was faster; it holds nothing
            else:
                time.sleep(_POLL_SECONDS)

    def complete(self, trial: Trial, value: float) -> bool:
        """End a trial with its value; False if it was given up meanwhile, since this process was silent."""
        return self._end(trial, TrialState.COMPLETE, value)

    def cut_short(self, trial: Trial) -> bool:
        """End a trial that is no good, see `complete`."""
        return self._end(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> bool:
        """End a trial that would fail again, see `complete`."""
        with contextlib.suppress(UpdateFinishedTrialError):
            trial.set_user_attr(REASON, reason)
        return self._end(trial, TrialState.FAIL)

    def leave(self, trial: Trial) -> None:
        """Give up a trial that this process does not finish, and let it be repeated."""
        found = self._find(trial.number)
        if self._end(trial, TrialState.FAIL):
            self._repeat(found, found.user_attrs.get(_KILLS, 0))

    def _end(self, trial: Trial, state: TrialState, value: float | None = None) -> bool:
        try:
            self.study.tell(trial, value, state=state)
        except (UpdateFinishedTrialError, ValueError):
            if self._find(trial.number).state is TrialState.RUNNING:
                raise
            return False
        return True

    def _find(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _is_one_of_the_total(self, number: int) -> bool:
        """Whether no more than the total count or are taken, up to this trial: of two that take the last, one stops."""
        taken = [trial.number for trial in self.study.get_trials(deepcopy=False) if _is_taken(trial)]
        return taken.index(number) < self._total

    def _give_up_what_is_left_behind(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_left_behind(trial):
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (UpdateFinishedTrialError, ValueError):
                    continue  # it has ended, or another process was faster
                self._on_left_behind(trial)
                self._repeat(trial, trial.user_attrs.get(_KILLS, 0) + 1)

    def _is_left_behind(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(_OWNER)
        if owner is not None and owner["machine"] == _machine():
            return owner == _identity() or not _is_alive(owner)  # this process takes one at a time
        sign, now = trial.user_attrs.get(_SIGN), time.monotonic()
        if self._signs.setdefault(trial.number, (sign, now))[0] != sign:
            self._signs[trial.number] = (sign, now)
        return now - self._signs[trial.number][1] > self._silent_seconds

    def _repeat(self, trial: FrozenTrial, kills: int) -> None:
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if kills >= _MOST_KILLS:
            self.study.add_trial(
                create_trial(
                    state=TrialState.FAIL,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={REASON: f"the process that ran it was killed, {kills} times"},
                )
            )
        elif params:
            self.study.enqueue_trial(params, user_attrs={_KILLS: kills})


@contextlib.contextmanager
def sign_of_life(trial: Trial, seconds: float = _SIGN_SECONDS) -> Iterator[None]:
    """Let other machines see that a trial's process lives, while the context lasts."""
    ended = threading.Event()

    def tell() -> None:
        for count in itertools.count(1):
            if ended.wait(seconds):
                break
            try:
                trial.set_user_attr(_SIGN, count)
            except UpdateFinishedTrialError:
                break  # given up by another process
            except Exception:  # noqa: BLE001  # the database may be away for a moment
                continue
        trial.storage.remove_session()

    thread = threading.Thread(target=tell, name="sign-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _counts(trial: FrozenTrial) -> bool:
    failed = trial.state is TrialState.FAIL and REASON in trial.user_attrs
    return failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_taken(trial: FrozenTrial) -> bool:
    return _counts(trial) or trial.state in _OPEN


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "started": psutil.Process(pid).create_time()}


def _machine() -> str:
    """Return what distinguishes this machine, or container, whose processes can be asked for by number."""
    try:
        numbers = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        numbers = 0
    return f"{socket.gethostname()}/{numbers}"


def _is_alive(owner: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(owner["pid"])
        with process.oneshot():
            same = abs(process.create_time() - owner["started"]) < _CLOCK_SECONDS
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
