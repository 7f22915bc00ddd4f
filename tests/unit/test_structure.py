"""No import circle, small folders, short modules; which wing may import which, import-linter knows."""

import pathlib

import grimp
import pytest

import forecaster

ROOT = pathlib.Path(forecaster.__file__).parents[1]
GENERATED = ROOT / "forecaster" / "v1"


def modules(*names: str) -> list[pathlib.Path]:
    """Return the modules in some folders, without those that are generated."""
    found = [path for name in names for path in (ROOT / name).rglob("*.py")]
    return [path for path in found if GENERATED not in path.parents and not path.read_text().startswith("# Generated")]


@pytest.mark.parametrize(("names", "most"), [(("forecaster", "pipelines"), 16), (("tests",), 20)])
def test_folders_are_small(names: tuple[str, ...], most: int) -> None:
    counts: dict[str, int] = {}
    for path in modules(*names):
        folder = str(path.parent.relative_to(ROOT))
        counts[folder] = counts.get(folder, 0) + 1
    assert {folder: count for folder, count in counts.items() if count > most} == {}


def test_modules_are_short() -> None:
    every = modules("forecaster", "pipelines")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in every}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_every_wing_says_what_it_is_for() -> None:
    wings = {path.parent for path in modules("forecaster", "pipelines")} - {ROOT / "forecaster" / "configs"}
    silent = [wing for wing in wings if not (wing / "__init__.py").read_text().startswith('"""')]
    assert silent == []


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = grimp.build_graph("forecaster", "pipelines")
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while free := {module for module, imported in left.items() if not imported}:
        left = {module: imported - free for module, imported in left.items() if module not in free}
    assert left == {}  # circles, and what imports one
