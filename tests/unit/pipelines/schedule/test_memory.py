"""What is remembered comes back, and observations are counted across the server's restarts."""

import pathlib

import pytest

from forecaster.errors import StorageError
from pipelines.memory import Memory


def test_it_comes_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "dataset.schedule.json"
    memory = Memory.load(path)
    memory.observations, memory.drift, memory.unfinished = 7, {"version": "3", "horizons": {}}, "cron"
    memory.save()
    assert Memory.load(path) == memory
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "[1]", '{"nonsense": 1}', "{"])
def test_a_broken_file_is_said_in_one_line(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "dataset.schedule.json"
    path.write_text(text)
    with pytest.raises(StorageError, match="repair or remove it"):
        Memory.load(path)


def test_times_that_are_yet_to_come_are_now(tmp_path: pathlib.Path) -> None:
    memory = Memory(path=tmp_path / "file", began=50.0)
    assert not memory.not_after(60.0)
    assert (memory.began, memory.ended) == (50.0, None)
    memory.ended = 70.0
    assert memory.not_after(60.0)
    assert (memory.began, memory.ended) == (50.0, 60.0)


def test_observations_are_counted_from_the_first_look_on(tmp_path: pathlib.Path) -> None:
    memory = Memory.load(tmp_path / "file")
    counted = []
    for applied, started in ((500, 1.0), (520, 1.0), (520, 1.0), (30, 9.0), (45, 9.0), (60, 15.0)):
        memory.count(applied, started)
        counted.append(memory.observations)
    assert counted == [0, 20, 20, 50, 65, 125]


def test_a_server_that_does_not_say_when_it_started(tmp_path: pathlib.Path) -> None:
    memory = Memory.load(tmp_path / "file")
    for applied in (500, 510, 4):
        memory.count(applied, float("nan"))
        memory.save()
        memory = Memory.load(tmp_path / "file")
    assert memory.observations == 14
