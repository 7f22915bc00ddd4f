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

from forecaster.config import ScheduleConfig
from pipelines.schedule.triggers import cron_trigger, fixed_triggers

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
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "mlflow.log").read_text()
                assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(180)


def test_the_composed_services_find_each_other(
    services: dict[str, Any], folder: pathlib.Path, mlflow_port: int
) -> None:
    """Train into MLflow over HTTP, load the champion from it, serve, stop."""
    ports = {"5000": mlflow_port}
    train = command(services["train"], folder, ports)
    small = ["--model.hidden_size=8", "--training.max_epochs=1", "--training.min_updates=20"]
    done = subprocess.run([*train, *small], capture_output=True, text=True, timeout=300, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert "is the champion" in done.stdout
    address_file = folder / "address"
    options = ["--serving.port=0", "--serving.metrics_port=0", f"--serving.address_file={address_file}"]
    server = subprocess.Popen([*command(services["server"], folder, ports), *options], env=environment())
    try:
        while not address_file.exists():
            assert server.poll() is None
            time.sleep(0.05)
        health = [str(BIN / "forecaster"), "health", "--server", address_file.read_text()]
        done = subprocess.run(health, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr
    finally:
        server.terminate()
        status = server.wait(180)
    assert status == 0
    assert (folder / "state" / "forecaster" / "journal.db").exists()


def test_mlflow_refuses_other_hosts(mlflow_port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{mlflow_port}/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


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


def resolved(words: list[str]) -> dict[str, Any]:
    """Return the configuration that a step's command means, by the program that the image has."""
    assert words[:2] == ["forecaster", "pipelines"]
    asked = [str(BIN / "forecaster"), *words[1:], "--print_config"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_the_composed_scheduler_watches_the_composed_server(services: dict[str, Any]) -> None:
    one = services["scheduler"]
    config = resolved([*one["entrypoint"], *one["command"]])
    (port,) = [word.rpartition("=")[2] for word in services["server"]["command"] if "metrics_port" in word]
    assert config["schedule"]["metrics_url"] == f"http://server:{port}/metrics"
    assert config["tracking"]["uri"] == resolved_uri(services["server"])
    assert fixed_triggers(ScheduleConfig(**config["schedule"])).keys() == {"cron"}
    assert int(one["stop_grace_period"].removesuffix("s")) > config["schedule"]["stop_seconds"]
    assert one["volumes"] == ["dataset:/var/lib/forecaster"]
    assert pathlib.Path(config["ingest"]["output"]).parent == pathlib.Path("/var/lib/forecaster")


def resolved_uri(service: dict[str, Any]) -> str:
    (uri,) = [word.partition("=")[2] for word in service["command"] if word.startswith("--tracking.uri")]
    return str(uri)


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Return Kubernetes' objects by their kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "pipelines.yaml").read_text()))
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


def pods(manifests: dict[str, Any]) -> dict[str, Any]:
    """Return the pods that they describe by the kind of what makes them."""
    job = manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return {"CronJob": job, "Deployment": manifests["Deployment"]["spec"]["template"]["spec"]}


def test_kubernetes_runs_one_retraining_at_a_time(manifests: dict[str, Any]) -> None:
    spec = manifests["CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] >= 10  # below, Kubernetes' own look every ten seconds may miss it
    assert cron_trigger(spec["schedule"], spec["timeZone"]) is not None
    assert pods(manifests)["CronJob"]["restartPolicy"] == "Never"
    deployed = manifests["Deployment"]["spec"]
    assert (deployed["replicas"], deployed["strategy"]) == (1, {"type": "Recreate"})
    assert deployed["selector"]["matchLabels"] == deployed["template"]["metadata"]["labels"]


@pytest.mark.parametrize("kind", ["CronJob", "Deployment"])
def test_kubernetes_commands_are_ones_that_the_program_knows(
    manifests: dict[str, Any], services: dict[str, Any], tmp_path: pathlib.Path, kind: str
) -> None:
    (container,) = pods(manifests)[kind]["containers"]
    assert container["image"] == services["server"]["image"]
    config = tmp_path / "forecaster.yaml"
    config.write_text(manifests["ConfigMap"]["data"]["forecaster.yaml"])
    there = f"--config=/etc/forecaster/{config.name}"
    assert there in container["args"]
    args = [f"--config={config}" if word == there else word for word in container["args"]]
    found = resolved([*container["command"], *args])
    assert found["tracking"]["uri"] == resolved_uri(services["server"])
    mounted = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "dataset"]
    assert mounted == ([str(pathlib.Path(found["ingest"]["output"]).parent)] if kind == "CronJob" else [])


@pytest.mark.parametrize("kind", ["CronJob", "Deployment"])
def test_kubernetes_pods_may_do_little(manifests: dict[str, Any], kind: str) -> None:
    pod = pods(manifests)[kind]
    (container,) = pod["containers"]
    instructions = (DEPLOY / "Dockerfile").read_text()
    assert f"--uid {pod['securityContext']['runAsUser']} " in instructions
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    named = {one["name"]: one for one in pod["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == named.keys()
    assert named["config"]["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    if "dataset" in named:
        claim = named["dataset"]["persistentVolumeClaim"]["claimName"]
        assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]


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
    done = subprocess.run([*words, "--print_config"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["serving"]["state"] == "/var/lib/forecaster/state"
