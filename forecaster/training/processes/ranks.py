"""Several processes that train one model: how they come together, agree, and take each other down.

Every process walks the same batches and takes of each the series that are its own. The sums that a gradient or a
validation needs are added up over all, so that every process knows the same figures at the same update.

Knows torch's process groups; knows nothing of models, of losses or of MLflow.
"""

import contextlib
import datetime as dt
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from forecaster.data.windows import Series
from forecaster.errors import ForecasterError, UnavailableError
from forecaster.training.processes.place import ALONE, Place, launched

_T = TypeVar("_T")
_TIMEOUT = dt.timedelta(minutes=10)  # for a process that neither answers nor ends
_LAST_WORDS_SECONDS = 5.0
_LOST_ANOTHER = 3  # the status of a process that ended because another one had


class Group:
    """The processes of one training, as each of them sees the others.

    Args:
        place: of this process.
    """

    def __init__(self, place: Place = ALONE) -> None:
        self.place = place

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum of every process's values, on the CPU where there are several."""
        if self.place.is_alone:
            return values
        total = values.detach().cpu().clone()
        dist.all_reduce(total)
        return total

    def from_first(self, value: _T) -> _T:
        """Return the first process's value."""
        if self.place.is_alone:
            return value
        carried = [value]
        dist.broadcast_object_list(carried)
        return carried[0]

    def agree(self, value: object) -> bool:
        """Return whether the value is the same in every process."""
        return self.add_up(torch.tensor(float(value != self.from_first(value)))).item() == 0

    def share(self, series: Sequence[Series]) -> frozenset[str]:
        """Return the ids of this process's series: each belongs to one process, and all have about the same steps."""
        steps: dict[str, int] = {}
        for one_series in series:
            steps[one_series.unique_id] = steps.get(one_series.unique_id, 0) + len(one_series)
        loads = [0] * self.place.size
        mine = set()
        for name, length in sorted(steps.items(), key=lambda item: (-item[1], item[0])):
            rank = loads.index(min(loads))
            loads[rank] += length
            if rank == self.place.rank:
                mine.add(name)
        return frozenset(mine)

    def strategy(self) -> "DDPStrategy | str":
        """Return what Lightning's Trainer needs to know of them."""
        return "auto" if self.place.is_alone else _Joined(self.place)


class _Joined(DDPStrategy):
    """Lightning's DDP among processes that are there and know each other already."""

    def __init__(self, place: Place) -> None:
        super().__init__(cluster_environment=_Environment(place))

    def _configure_launcher(self) -> None:
        self._launcher = None


class _Environment(ClusterEnvironment):
    """A place as Lightning asks for it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise AssertionError("the processes have met already")

    @property
    def main_port(self) -> int:
        raise AssertionError("the processes have met already")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.size

    def set_world_size(self, size: int) -> None:
        assert size == self._place.size

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._place.rank

    def local_rank(self) -> int:
        return self._place.local_rank

    def node_rank(self) -> int:
        return self._place.rank // self._place.local_size


@contextlib.contextmanager
def gathered(place: Place, follow: Callable[..., None], *work: Any) -> Iterator[Group]:
    """Bring the first process together with those that it starts, or with those that a launcher has started.

    Args:
        place: the first one's.
        follow: what each of the others calls with `work` and its own group; must be importable.
        work: pickled.

    Raises:
        UnavailableError: another process failed; the message says why. All have ended then.
    """
    if place.is_alone or launched() is not None:
        with joined(place) as group:
            yield group
        return
    with tempfile.TemporaryDirectory(prefix="forecaster-ranks-") as folder:
        meeting = (pathlib.Path(folder) / "meeting").as_uri()
        started = [_start(rank, place, meeting, follow, work) for rank in range(1, place.size)]
        try:
            _await(started)
            with joined(place, meeting) as group:
                yield group
                for process, _ in started:
                    process.join(_TIMEOUT.total_seconds())
        except UnavailableError as error:
            if found := [words for one in started if (words := _last_words(*one))]:
                raise UnavailableError(found[0]) from error
            raise
        finally:
            for process, told in started:
                process.kill()
                process.join()
                told.close()


@contextlib.contextmanager
def joined(place: Place, meeting: str = "env://") -> Iterator[Group]:
    """Let this process be one of the group, which is made if it does not exist.

    Args:
        place: of this process.
        meeting: where they meet, as `torch.distributed` wants it.
    """
    if place.is_alone:
        yield Group()
        return
    ours = not dist.is_initialized()
    try:
        if ours:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, meeting, timeout=_TIMEOUT, world_size=place.size, rank=place.rank)
        yield Group(place)
    except RuntimeError as error:
        if not _is_of_the_group(error):
            raise
        what = "another process of the training failed or was lost, and this one ended with it"
        raise UnavailableError(what) from error
    finally:
        if ours and dist.is_initialized():
            dist.destroy_process_group()


def _is_of_the_group(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _start(
    rank: int, first: Place, meeting: str, follow: Callable[..., None], work: Sequence[Any]
) -> tuple[SpawnProcess, "Connection[Any, Any]"]:
    context = multiprocessing.get_context("spawn")
    hears, tells = context.Pipe(duplex=False)
    place = Place(rank=rank, size=first.size, local_rank=rank, local_size=first.local_size)
    name = f"forecaster-rank-{rank}"
    process = context.Process(target=_run, args=(place, meeting, tells, follow, work), name=name, daemon=True)
    process.start()
    tells.close()
    return process, hears


def _await(started: "Sequence[tuple[SpawnProcess, Connection[Any, Any]]]") -> None:
    """Wait until every process is about to join; raises UnavailableError if one cannot be started."""
    for process, told in started:
        wait([told, process.sentinel])
        try:
            told.recv()
        except EOFError:
            raise UnavailableError(f"{process.name} could not be started") from None


def _run(
    place: Place, meeting: str, tells: "Connection[Any, Any]", follow: Callable[..., None], work: Sequence[Any]
) -> None:
    """Be one of the started processes; what goes wrong is told to the first one, which shows it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the first one, which ends the others
    follow_parent()
    tells.send("")
    try:
        with joined(place, meeting) as group:
            follow(*work, group)
    except UnavailableError:  # the news of somebody else's failure
        os._exit(_LOST_ANOTHER)
    except Exception as error:  # noqa: BLE001  # whatever it is, the first process has to know
        tells.send(str(error) if isinstance(error, ForecasterError) else f"{type(error).__name__}: {error}")
        os._exit(1)


def _last_words(process: SpawnProcess, told: "Connection[Any, Any]") -> str:
    """Return why a process failed, empty if it did not."""
    process.join(_LAST_WORDS_SECONDS)
    try:
        if told.poll():
            return f"{process.name} failed: {told.recv()}"
    except EOFError:
        pass
    if process.exitcode is not None and process.exitcode < 0:
        return f"{process.name} was ended by {signal.Signals(-process.exitcode).name}"
    if process.exitcode in (None, 0, _LOST_ANOTHER):
        return ""
    return f"{process.name} ended by itself, with status {process.exitcode}"


def follow_parent() -> None:
    """End this process when its parent does, however that ends."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
