"""`make test-again`: repeat every test that starts processes, waits or measures, idle and beside busy processes.

Each file is a run of pytest of its own. What was done is kept beside the build, so that a call that was stopped is gone
on with by the next one of the same commit and the same numbers. `python -m tests.again --times 10 kills swaps` repeats
the files whose names hold one of these words. Status 1: a test failed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "test-again.json"
CONDITIONS = ("idle", "busy")
_TIMED = re.compile(
    r"\b(subprocess|threading|multiprocessing|sleep|monotonic|perf_counter|ThreadPoolExecutor|Popen|ServerFactory|postgres)\b"
)
_BUSY = "while True: pass"


@dataclass(slots=True)
class Progress:
    """What was done of one call, as it is kept.

    Args:
        of: the call: commit, changes, times and files.
        done: runs, `CONDITION NUMBER FILE`, with their seconds.
        failed: how often, by condition and test.
    """

    of: str
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in CONDITIONS})

    @classmethod
    def kept(cls, path: pathlib.Path, of: str) -> "Progress":
        """Return what a former call of the same kind has done."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            said = json.loads(path.read_text())
            if said["of"] == of:
                return cls(of, said["done"], {name: Counter(said["failed"][name]) for name in CONDITIONS})
        return cls(of)

    def keep(self, path: pathlib.Path) -> None:
        """Write it to a file, which is replaced whole."""
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".partial")
        unfinished.write_text(json.dumps({"of": self.of, "done": self.done, "failed": self.failed}))
        unfinished.replace(path)


def timed_files(folder: pathlib.Path, words: Sequence[str] = ()) -> list[pathlib.Path]:
    """Return the files of tests that start processes, wait or measure, by what they name; or some of them."""
    found = [path for path in sorted(folder.rglob("test_*.py")) if _TIMED.search(path.read_text())]
    return [path for path in found if not words or any(word in path.name for word in words)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Repeat the tests, and say which failed how often."""
    parser = argparse.ArgumentParser(prog="python -m tests.again", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="in each condition")
    parser.add_argument("--tests", type=pathlib.Path, default=ROOT / "tests", help="the folder of tests")
    parser.add_argument("--state", type=pathlib.Path, default=STATE, help="where is kept what was done")
    parser.add_argument("words", nargs="*", help="of the files' names; all files without any")
    options = parser.parse_args(arguments)
    files = timed_files(options.tests, options.words)
    progress = Progress.kept(options.state, _call(options.times, files))
    for condition in CONDITIONS:
        runs = [(f"{condition} {number} {path}", path) for number in range(options.times) for path in files]
        left = [run for run in runs if run[0] not in progress.done]
        with _busy() if condition == "busy" and left else contextlib.nullcontext():
            for name, path in left:
                began = time.perf_counter()
                failed = _failures(path)
                progress.failed[condition].update(failed)
                progress.done[name] = time.perf_counter() - began
                progress.keep(options.state)
                print(f"{name}: {progress.done[name]:.0f} s", *(f"FAILED {test}" for test in failed), flush=True)
    return _tell(progress, options.times, len(files))


def _call(times: int, files: Sequence[pathlib.Path]) -> str:
    """Return what tells one call from others: the code as it is, and what is to be done."""
    said = [_git("rev-parse", "HEAD"), _git("diff", "HEAD"), str(times), *map(str, files)]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Keep every core busy, two at least."""
    count = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2, 2)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
            stack.callback(process.kill)
        yield


def _failures(path: pathlib.Path) -> list[str]:
    """Run a file's tests and return those that failed, or the file if it did not come to that."""
    report = STATE.with_suffix(f".{os.getpid()}.xml")
    report.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", str(path)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        failed = []
        with contextlib.suppress(OSError, ET.ParseError):
            for case in ET.parse(report).getroot().iter("testcase"):
                if any(child.tag in ("failure", "error") for child in case):
                    failed.append(f"{case.get('classname')}::{case.get('name')}")
        if done.returncode not in (0, 5) and not failed:  # 5: all of it is left out here
            failed.append(str(path))
        if failed:
            print(done.stdout[-5000:], file=sys.stderr)
        return failed
    finally:
        report.unlink(missing_ok=True)


def _tell(progress: Progress, times: int, files: int) -> int:
    minutes = sum(progress.done.values()) / 60
    for condition in CONDITIONS:
        for test, count in progress.failed[condition].most_common():
            print(f"{condition}: {test} failed {count} of {times} times")
    failures = sum(counter.total() for counter in progress.failed.values())
    print(f"{files} files, {times} times idle and {times} times busy, {minutes:.0f} minutes: {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
