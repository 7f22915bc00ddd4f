"""Write the blocking client, which is the asyncio one without its `async` and `await`.

    python -m tests.clients [--check]

With `--check` nothing is written, and the exit status says whether the file is what would be written.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import unasync

SOURCE, TARGET = "asynchronous.py", "synchronous.py"
CLIENT = pathlib.Path(__file__).resolve().parents[1] / "forecaster" / "client"
NAMES = {
    "AsyncForecastClient": "ForecastClient",
    "AsyncForecastStream": "ForecastStream",
    "AsyncClosing": "Closing",
    "async_stream": "stream",
    "open_async_channel": "open_channel",
    "asyncio": "time",
}
HEADER = f"# Generated from {SOURCE} by `make clients`, never edited.\n"


def blocking() -> str:
    """Return the blocking client's code."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copyfile(CLIENT / SOURCE, folder / SOURCE)
        rule = unasync.Rule(f"/{SOURCE}", f"/{TARGET}", NAMES)
        unasync.unasync_files([str(folder / SOURCE)], [rule])
        code = HEADER + (folder / TARGET).read_text()
    for how in (["check", "--quiet", "--fix-only", "--select", "I"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *how, "--stdin-filename", str(CLIENT / TARGET), "-"]
        code = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout
    return code


def main() -> int:
    """Write the file, or look whether it is right."""
    if "--check" not in sys.argv[1:]:
        (CLIENT / TARGET).write_text(blocking())
        return 0
    if (CLIENT / TARGET).read_text() == blocking():
        return 0
    print(f"{CLIENT / TARGET} is not what {SOURCE} makes: run `make clients`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
