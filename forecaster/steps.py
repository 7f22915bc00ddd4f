"""`forecaster pipelines`: the steps of the package `pipelines` that came with this one, wherever it is called.

`python -m pipelines` takes whatever has that name in the working folder; this finds ours by where it lies. Knows
nothing of the steps.
"""

import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

import forecaster

NAME = "pipelines"
COMMAND = (sys.executable, "-P", "-m", "forecaster", NAME)  # -P: nothing of the working folder is imported


def run(argv: Sequence[str]) -> int:
    """Run the step that `argv` names and return its exit code."""
    _load()
    main = importlib.import_module(f"{NAME}.__main__").main
    status: int = main(argv, program=f"forecaster {NAME}")
    return status


def _load() -> None:
    """Make `import pipelines` mean the package beside `forecaster`."""
    folder = pathlib.Path(forecaster.__file__).resolve().parent.with_name(NAME)
    loaded = sys.modules.get(NAME)
    if loaded is not None and folder in [pathlib.Path(path).resolve() for path in getattr(loaded, "__path__", ())]:
        return
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
