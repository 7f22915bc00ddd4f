"""Write the blocking client, which is the asyncio one without its `async` and `await`: three modules.

    python -m tests.clients [--check]

With `--check` nothing is written, and the exit status says whether the files are what would be written.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import unasync

TARGETS = {
    "asynchronous.py": "synchronous.py",
    "async_asking.py": "asking.py",
    "transport/async_calling.py": "transport/calling.py",
}
CLIENT = pathlib.Path(__file__).resolve().parents[1] / "forecaster" / "client"
NAMES = {
    "AsyncForecastClient": "ForecastClient",
    "AsyncForecastStream": "ForecastStream",
    "AsyncAsking": "Asking",
    "AsyncCalling": "Calling",
    "AsyncClosing": "Closing",
    "async_asking": "asking",
    "async_calling": "calling",
    "async_stream": "stream",
    "open_async_channel": "open_channel",
    "asyncio": "time",
}
HEADER = "# Generated from {} by `make clients`, never edited.\n"


def blocking(source: str) -> str:
    """Return the blocking code of a module."""
    target = TARGETS[source]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / source).parent.mkdir(exist_ok=True)
        shutil.copyfile(CLIENT / source, folder / source)
        rule = unasync.Rule(f"/{source}", f"/{target}", NAMES)
        unasync.unasync_files([str(folder / source)], [rule])
        code = (
            f"# Generated from {pathlib.Path(source).name} by `make clients`, never edited.\n"
            + (folder / target).read_text()
        )
    for how in (["check", "--quiet", "--fix-only", "--select", "I"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *how, "--stdin-filename", str(CLIENT / target), "-"]
        code = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout
    return code


def main() -> int:
    """Write the files, or look whether they are right."""
    wrong = 0
    for source, target in TARGETS.items():
        if "--check" not in sys.argv[1:]:
            (CLIENT / target).write_text(blocking(source))
        elif (CLIENT / target).read_text() != blocking(source):
            print(f"{CLIENT / target} is not what {source} makes: run `make clients`", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
