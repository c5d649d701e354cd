"""The files of deploy/ fit the server's settings, routes and command line; shared memory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cupola.errors import BundleError
from cupola.serve.ipc.listeners import parse_address
from cupola.serve.master import shared_memory as module
from cupola.serve.master.shared_memory import SharedMemory, report, shared_memory, weight_bytes
from cupola.serve.routes import ROUTER
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.models import ModelPlan, plan_models
from cupola.serve.settings.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MIB = 1024**2


def ports(addresses: list[str]) -> set[int]:
    return {int(parse_address(address)[1][1]) for address in addresses}


def size(text: str) -> int:
    """Mi and Gi of Kubernetes, in bytes."""
    return int(text[:-2]) * {"Mi": MIB, "Gi": 1024 * MIB}[text[-2:]]


# ---- the container


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def instruction(name: str) -> str:
    return [rest for known, rest in instructions() if known == name][-1]


def container_settings() -> Settings:
    return load_settings(DEPLOY / "settings.yaml", {}, {})


def test_the_image_contains_what_it_names() -> None:
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert source == "dist/*.whl" or (ROOT / source).exists(), source
    settings = container_settings()
    assert (
        f"deploy/settings.yaml {json.loads(instruction('CMD'))[1]}"
        in (DEPLOY / "Dockerfile").read_text()
    )
    exposed = {int(port) for port in instruction("EXPOSE").split()}
    assert exposed == ports([*settings.listen, *settings.operations_listen])
    assert instruction("STOPSIGNAL") == "SIGQUIT" and instruction("USER") == "10001:10001"
    assert json.loads(instruction("ENTRYPOINT")) == ["cupola", "serve"]
    assert not settings.daemon and settings.pid_file is None


# ---- Kubernetes


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in found}


@pytest.fixture
def pod(manifest: dict[str, Any]) -> Any:
    return manifest["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def mounted(manifest: dict[str, Any], tmp_path: Path) -> Settings:
    file = tmp_path / "settings.yaml"
    file.write_text(manifest["ConfigMap"]["data"]["settings.yaml"])
    return load_settings(file, {}, {})


def test_ports_and_probes(manifest: dict[str, Any], pod: Any, mounted: Settings) -> None:
    (container,) = pod["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {named["http"]} == ports(mounted.listen)
    assert {named["operations"]} == ports(mounted.operations_listen)
    paths = {route.path for route in ROUTER.routes if route.method == "GET"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        assert request["path"] in paths and request["port"] in named
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > mounted.ready_timeout
    assert manifest["Service"]["spec"]["ports"][0]["targetPort"] in named
    notes = manifest["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == named["operations"]


def test_the_pod_has_time_to_drain(pod: Any, mounted: Settings) -> None:
    (container,) = pod["containers"]
    needed = mounted.drain_delay + mounted.worker_shutdown_timeout
    assert pod["terminationGracePeriodSeconds"] > needed
    probe = container["readinessProbe"]
    assert mounted.drain_delay > probe["periodSeconds"] * probe["failureThreshold"]
    unit = (DEPLOY / "cupola.service").read_text()
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > needed
    assert "KillSignal=SIGQUIT" in unit and "OOMPolicy=continue" in unit


def test_the_pod_has_the_memory_that_it_needs(pod: Any, mounted: Settings) -> None:
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    shm = volumes[mounts["/dev/shm"]]["emptyDir"]
    assert shm["medium"] == "Memory" and mounted.runtime_dir is not None
    assert mounted.runtime_dir.is_relative_to("/dev/shm")
    need = shared_memory(mounted, plan_models(mounted, offline=True))
    assert size(shm["sizeLimit"]) > need.reload + need.body
    assert size(container["resources"]["limits"]["memory"]) > 2 * size(shm["sizeLimit"])
    assert container["args"][1].startswith(f"{next(iter(mounts))}/")
    assert pod["securityContext"]["runAsUser"] == int(instruction("USER").split(":")[0])
    assert container["securityContext"]["readOnlyRootFilesystem"] and "/tmp" in mounts


# ---- shared memory


def test_the_need_of_each_model(tmp_path: Path) -> None:
    settings = Settings(runtime_dir=tmp_path / "none/yet", workers=2)
    need = shared_memory(settings, plan_models(settings, offline=True))
    assert set(need.models) >= {"detr-digits:1", "bloom-tiny:1"}
    assert 12 * MIB < need.models["detr-digits:1"] < 14 * MIB  # float16, and folded in float32
    assert need.total == sum(need.models.values()) + need.server
    assert need.reload == need.total + sum(need.models.values())
    assert need.size == shutil.disk_usage(tmp_path).total


def test_the_report_warns_if_there_is_too_little() -> None:
    need = SharedMemory(Path("/dev/shm/x"), {"a:1": 10 * MIB}, MIB, 2 * MIB, 24 * MIB)
    text = "\n".join(report(need))
    assert re.search(r"a:1 +10.0 MiB", text) and "up to 21.0 MiB during a reload" in text
    assert "warning" not in text
    small = SharedMemory(Path("/dev/shm/x"), {"a:1": 10 * MIB}, MIB, 2 * MIB, 22 * MIB)
    assert "warning: the file system of /dev/shm/x holds 22.0 MiB" in report(small)[-1]


def plan(folder: Path) -> ModelPlan:
    folder.mkdir(exist_ok=True)
    config = {"name": "m", "version": "1", "task": "detection", "model": {"type": "DETR"}}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelPlan("m", "1", str(folder), "detection")


def write(folder: Path, tensors: dict[str, tuple[str, list[int]]], more: bytes = b"") -> None:
    about = {name: {"dtype": kind, "shape": shape} for name, (kind, shape) in tensors.items()}
    header = json.dumps(about).encode()
    (folder / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + more)


def test_weights_that_are_converted_need_space_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan(tmp_path / "m")
    path = tmp_path / "m/weights.safetensors"
    write(tmp_path / "m", {"a": ("F32", [3 * MIB])})
    assert weight_bytes(one) == path.stat().st_size
    for tensors in ({"a": ("F16", [3 * MIB])},
                    {"a": ("F32", [3 * MIB]), "bn.running_var": ("F32", [])}):  # fmt: skip
        write(tmp_path / "m", tensors)
        assert weight_bytes(one) - path.stat().st_size in (12 * MIB, 12 * MIB + 4)
    monkeypatch.setattr(module, "PREPARED_FROM", 20 * MIB)
    assert weight_bytes(one) == path.stat().st_size


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]", b"\x05\0\0"])
def test_weights_that_cannot_be_read_are_an_error(tmp_path: Path, content: bytes) -> None:
    one = plan(tmp_path / "m")
    with pytest.raises(BundleError, match="holds no weights"):
        weight_bytes(one)
    (tmp_path / "m/weights.safetensors").write_bytes(content)
    if content[:1] == b"\x02":
        assert weight_bytes(one) == len(content)
    else:
        with pytest.raises(BundleError, match="cannot read the weights"):
            weight_bytes(one)


def test_check_prints_the_need(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cupola", "check", "-c", str(DEPLOY / "settings.yaml"), "--dump",
         "--set", f"runtime_dir={tmp_path}/run", "--set", "listen=127.0.0.1:0",
         "--set", "operations_listen=[]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"detr-digits:1 +\d+\.\d MiB", done.stderr) and "total" in done.stderr
    assert yaml.safe_load(done.stdout)["drain_delay"] == 10
