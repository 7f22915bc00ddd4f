"""The README's example is run as it stands, its commands are ones that exist, and its links lead somewhere."""

import contextlib
import datetime as dt
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from forecaster.cli import main
from forecaster.client import ForecastClient, read_csv

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "deploy/README.md",
    ROOT / "forecaster/data/datasets/README.md",
]


def test_the_path_of_a_new_user_runs_as_it_stands(tmp_path: pathlib.Path) -> None:
    """All commands and the program of README's section on one's own CSV, in order, in a folder of their own.

    Only the server's address is another, since tests run beside each other.
    """
    section = (ROOT / "README.md").read_text().partition("## With your own CSV\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```|^    (\.venv/bin/forecaster [^\n]*)$", section, re.DOTALL | re.MULTILINE)
    steps = [program or command for program, command in blocks]
    verbs = [step.split()[1] if step.startswith(".venv") else "python" for step in steps]
    assert verbs == ["train", "serve", "python", "observe", "forecast", "evaluate"]
    train, serve, program, observe, forecast, evaluate = steps
    assert len(program.strip().splitlines()) <= 24
    (tmp_path / ".venv").symlink_to(sys.prefix)
    write_meters(tmp_path)
    assert "forecaster version 1 is the champion" in run(train, tmp_path)
    with serving(serve, tmp_path) as address:
        assert "127.0.0.1:50051" in program
        for _ in range(2):  # people run things twice
            said = run([sys.executable, "-W", "error", "-c", program.replace("127.0.0.1:50051", address)], tmp_path)
            assert said.count("y_hat") == 3
            assert '"001"' in said or "001 " in said
        with ForecastClient(address) as client:
            assert [series.unique_id for series in client.list_series()] == ["001", "002"]
            assert client.get_series("002").last_ds == LAST  # and not the day ahead
            told = client.forecast("002", future=read_csv(tmp_path / "mine.csv"))
            assert told["ds"][0] == LAST + dt.timedelta(hours=1)
            assert not told.equals(client.forecast("002"))
        where = f" --server {address}"
        assert run(observe + where, tmp_path).startswith(f"0 applied, {2 * HOURS} known already, 0 refused\n")
        assert run(forecast + where, tmp_path) == ""
    assert read_csv(tmp_path / "forecasts.csv")["unique_id"].unique(maintain_order=True).to_list() == ["001", "002"]
    assert "48 origins of 2 series" in run(evaluate, tmp_path)
    assert (tmp_path / "figures.json").exists()


HOURS = 24 * 12
START = dt.datetime(2024, 5, 1)
LAST = (START + dt.timedelta(hours=HOURS - 1)).replace(tzinfo=dt.UTC)


def write_meters(folder: pathlib.Path) -> None:
    """Write two meters with a price that is known a day ahead, and what came on that day."""
    rng = np.random.default_rng(7)
    past, ahead = ["unique_id,ds,y,price"], ["unique_id,ds,y,price"]
    for name in ("001", "002"):
        for hour in range(HOURS + 24):
            price = 20 + 10 * (hour // 24 % 3 == 0)
            y = round(100 + 30 * np.sin(hour * np.pi / 12) - 2 * (price - 20) + rng.normal(0, 2), 2)
            row = f"{name},{(START + dt.timedelta(hours=hour)).isoformat()}Z"
            past.append(f"{row},{y if hour < HOURS else ''},{price}")
            if hour >= HOURS:
                ahead.append(f"{row},{y},{price}")
    (folder / "mine.csv").write_text("\n".join(past) + "\n")
    (folder / "what-came.csv").write_text("\n".join(ahead) + "\n")


def run(command: str | list[str], folder: pathlib.Path) -> str:
    """Run a command to its end and return what it says."""
    words = shlex.split(command) if isinstance(command, str) else command
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(command: str, folder: pathlib.Path) -> Iterator[str]:
    """Run `serve` on a free port, and yield its address as soon as it serves."""
    address, log = folder / "address", folder / "server.log"
    words = [*shlex.split(command), "--serving.port=0", f"--serving.address_file={address}"]
    with log.open("w") as stream, subprocess.Popen(words, cwd=folder, stderr=stream) as process:
        try:
            while not address.exists():
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            yield address.read_text().strip()
            process.terminate()
            assert process.wait(180) == 0, log.read_text()
        finally:
            process.kill()


def test_the_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    commands = set(re.findall(r"\.venv/bin/forecaster (\w[\w-]*)|`forecaster (\w[\w-]*)", text))
    for name in {first or second for first, second in commands}:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0, name
        capsys.readouterr()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "check", "test", "bench", "demo"} <= set(targets)
    assert set(re.findall(r"^    make (\w+)|`make (\w+)", text)) <= {(t, "") for t in targets} | {
        ("", t) for t in targets
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert os.path.exists(page.parent / target), target
