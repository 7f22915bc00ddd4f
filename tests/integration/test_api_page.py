"""The page of examples: each call of the API has one of each kind, and all of them run as they stand."""

import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import polars as pl
import pytest

from forecaster.client import ForecastClient
from forecaster.v1 import forecast_service_pb2, model_service_pb2
from tests.integration.conftest import Server, wander

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ADDRESS = "127.0.0.1:50051"
BIN = pathlib.Path(sys.executable).parent
METHODS = [
    f"{service.full_name}/{method.name}"
    for file in (forecast_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# What the client calls it, and the shell, where it has a command for it.
PYTHON = {
    "Observe": "observe(",
    "Forecast": "forecast(",
    "GetForecast": None,  # that is `forecast` of one
    "ForecastHistory": "forecast_history(",
    "WatchForecasts": "watch(",
    "StreamForecasts": "stream(",
    "GetSeries": "get_series(",
    "ListSeries": "list_series(",
    "DeleteSeries": "delete_series(",
    "GetModel": "get_model(",
    "ListModels": "list_models(",
    "ActivateModel": "activate_model(",
}


def test_every_call_has_examples() -> None:
    assert {method.rpartition("/")[2] for method in METHODS} == PYTHON.keys()
    for method in METHODS:
        assert f"http://{ADDRESS}/{method}\n" in PAGE
    program = "".join(code for kind, code in BLOCKS if kind == "python")
    assert [call for call in PYTHON.values() if call is not None and f"client.{call}" not in program] == []


@pytest.fixture
def folder(tmp_path: pathlib.Path, client: ForecastClient) -> pathlib.Path:
    """Return a folder with the file of the examples; the server has some more series."""
    rows = wander(5, 60).with_columns(unique_id="meter/" + (pl.col("unique_id").str.slice(1).cast(int) + 1).cast(str))
    client.observe(rows.filter(pl.col("unique_id").is_in(["meter/3", "meter/4", "meter/5"])))
    rows.filter(pl.col("unique_id").is_in(["meter/1", "meter/2"])).write_csv(tmp_path / "mine.csv")
    return tmp_path


def test_all_examples_run_as_they_stand(server: Server, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    known: dict[str, object] = {}
    for kind, code in BLOCKS:
        assert kind == "python" or ADDRESS in code or code.startswith("forecaster ")
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(code.replace(ADDRESS, server.address), known)
            assert "print(" not in code or said.getvalue()
            continue
        words = shlex.split(code.replace(ADDRESS, server.address))
        if words[0] == "forecaster":
            words = [sys.executable, "-m", *words, "--server", server.address]
        else:
            words[0] = str(BIN / words[0])
        check(words, code)
    known["client"].close()  # type: ignore[attr-defined]


def check(words: list[str], code: str) -> None:
    """Run an example; one that goes on for ever has to say something."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    if "WatchForecasts" in code:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == "{"
            process.kill()
        return
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, (code, done.stdout, done.stderr)
    if words[0].endswith("buf"):
        answers, decoder, text = [], json.JSONDecoder(), done.stdout.strip()
        while text:
            answer, end = decoder.raw_decode(text)
            answers.append(answer)
            text = text[end:].strip()
        assert len(answers) == (2 if "StreamForecasts" in code else 1)
        assert "REJECTED" not in done.stdout
    else:
        assert done.stdout
