"""What is made survives a power cut, its name included: looked at as the calls of the system."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from forecaster.durable_files import make_folder, write_durably
from forecaster.serving.storage.opening import open_storage
from tests.unit.serving.storages import columns, prune_all

Calls = list[tuple[str, pathlib.Path]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Return the folders that are made and what is synced, in order, by the names that they have then."""
    seen: Calls = []

    def watched(name: str, path_of: Callable[[Any], pathlib.Path]) -> None:
        function = getattr(os, name)

        def call(first: Any, *rest: Any, **options: Any) -> Any:
            done = function(first, *rest, **options)
            seen.append((name, path_of(first)))
            return done

        monkeypatch.setattr(os, name, call)

    watched("mkdir", pathlib.Path)
    watched("fsync", lambda descriptor: pathlib.Path(f"/proc/self/fd/{descriptor}").readlink())
    return seen


def unsynced(calls: Calls) -> list[pathlib.Path]:
    """Return the folders that were made and whose parents were not synced afterwards."""
    return [path for k, (name, path) in enumerate(calls) if name == "mkdir" and ("fsync", path.parent) not in calls[k:]]


def test_every_new_folder_is_synced_into_its_parent(tmp_path: pathlib.Path, calls: Calls) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert [path.name for name, path in calls if name == "mkdir"] == ["a", "b", "c"]
    assert unsynced(calls) == []
    before = len(calls)
    make_folder(tmp_path / "a" / "b" / "c")
    assert len(calls) == before or unsynced(calls) == []
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            make_folder(wrong)


def test_a_state_in_new_folders_is_there_after_a_power_cut(tmp_path: pathlib.Path, calls: Calls) -> None:
    storage = open_storage(str(tmp_path / "new" / "state"), "commit", "m")
    storage.journal.append(columns(("a", 1, 1.0)))
    prune_all(storage, 1)
    storage.snapshots.keep_bundle("f", {"one": b"1"})
    storage.close()
    assert {"new", "state", "m", "history", "bundles", "f"} <= {path.name for name, path in calls if name == "mkdir"}
    assert unsynced(calls) == []


def test_a_file_is_on_the_disk_before_it_is_spoken_of(tmp_path: pathlib.Path, calls: Calls) -> None:
    def look() -> None:
        assert calls == [("fsync", tmp_path / "one.partial")]
        assert not (tmp_path / "one").exists()

    write_durably(tmp_path / "one", lambda file: file.write(b"1"), look)
    assert (tmp_path / "one").read_bytes() == b"1"
