"""The README's example is run as it stands, its commands are ones that exist, and its links lead somewhere."""

import os
import pathlib
import re
import subprocess
import sys

import polars as pl
import pytest

from forecaster.cli import main

from .conftest import ServerFactory, wander

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "deploy/README.md",
    ROOT / "forecaster/data/datasets/README.md",
]


def test_the_example_runs_as_it_stands(servers: ServerFactory, tmp_path: pathlib.Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    server = servers()
    address = "127.0.0.1:50051"
    assert address in code
    wander(3, 60).with_columns(pl.col("ds").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(tmp_path / "mine.csv")
    command = [sys.executable, "-W", "error", "-c", code.replace(address, server.address)]
    for _ in range(2):  # people run things twice
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "y_hat" in done.stdout
    assert len(code.strip().splitlines()) <= 24


def test_the_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    commands = set(re.findall(r"\.venv/bin/forecaster (\w+)|`forecaster (\w+)", text))
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
