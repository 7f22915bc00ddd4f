"""The files under deploy/: what they start does start, and what they promise is so."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
BIN = pathlib.Path(sys.executable).parent


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("compose")


def command(service: dict[str, Any], folder: pathlib.Path, ports: dict[str, int]) -> list[str]:
    """Return what a service runs, with this machine's places for the container's."""
    words = [*service.get("entrypoint", ["forecaster"]), *service["command"]]
    words[0] = str(BIN / words[0])
    changed = []
    for one in words:
        word = one
        for port, mine in ports.items():
            word = word.replace(f"mlflow:{port}", f"127.0.0.1:{mine}").replace(f"--port={port}", f"--port={mine}")
            word = word.replace(f"127.0.0.1:{port}", f"127.0.0.1:{mine}")
        changed.append(word.replace("/var/lib/forecaster", str(folder)).replace("0.0.0.0", "127.0.0.1"))
    return changed


def environment() -> dict[str, str]:
    """Return the image's environment and this one's."""
    return {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="module")
def mlflow_port(services: dict[str, Any], folder: pathlib.Path) -> Iterator[int]:
    """Run compose's MLflow and return its port."""
    port = free_port()
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            command(services["mlflow"], folder, {"5000": port}), stdout=log, stderr=log, env=environment()
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "mlflow.log").read_text()
                assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_the_composed_services_find_each_other(
    services: dict[str, Any], folder: pathlib.Path, mlflow_port: int
) -> None:
    """Train into MLflow over HTTP, load the champion from it, serve, stop."""
    ports = {"5000": mlflow_port}
    train = command(services["train"], folder, ports)
    small = ["--model.hidden_size=8", "--training.max_epochs=1", "--training.min_updates=20"]
    done = subprocess.run([*train, *small], capture_output=True, text=True, timeout=200, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert "is the champion" in done.stdout
    address_file = folder / "address"
    options = ["--serving.port=0", f"--serving.address_file={address_file}"]
    server = subprocess.Popen([*command(services["server"], folder, ports), *options], env=environment())
    try:
        while not address_file.exists():
            assert server.poll() is None
            time.sleep(0.05)
        health = [str(BIN / "forecaster"), "health", "--server", address_file.read_text()]
        done = subprocess.run(health, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "SERVING\n")
    finally:
        server.terminate()
        status = server.wait(30)
    assert status == 0
    assert (folder / "state" / "forecaster" / "journal.db").exists()


def test_mlflow_refuses_other_hosts(mlflow_port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{mlflow_port}/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)


def test_ports_are_on_loopback_and_nothing_runs_as_root(services: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", ()))
    instructions = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert [line for line in instructions if line.startswith("USER")] == ["USER forecaster"]
    copied = [
        word for line in instructions if line.startswith("COPY") and "--from" not in line for word in line.split()
    ]
    for name in {word for word in copied[1:] if word not in ("COPY", "./")}:
        assert (DEPLOY.parent / name).exists()
        assert f"!{name}" in (DEPLOY.parent / ".dockerignore").read_text().splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_sound() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(DEPLOY / "forecaster.service")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20"]  # tenths: 2.0 of 10
    done = subprocess.run([*command, str(DEPLOY / "forecaster.service")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_units_command_is_one_that_the_program_knows(tmp_path: pathlib.Path) -> None:
    lines = (DEPLOY / "forecaster.service").read_text().splitlines()
    words = next(line for line in lines if line.startswith("ExecStart=")).split()[1:]
    config = tmp_path / "forecaster.yaml"
    config.write_text("serving: {host: 0.0.0.0}\n")
    words = [str(BIN / words[0]), words[1], *(str(config) if word.endswith(".yaml") else word for word in words[2:])]
    done = subprocess.run([*words, "--print_config"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["serving"]["state"] == "/var/lib/forecaster/state"
