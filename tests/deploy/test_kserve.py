"""deploy/kserve: manifests that fit the server's settings, KServe's schemas, and its clients."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from serve_harness import Running, free_port, write_bundle

from cupola.cli.serve import app
from cupola.runtime import tasks
from cupola.serve.routes import ROUTER
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.flags import collect_flags
from cupola.serve.settings.settings import Settings
from environments import python_with

FOLDER = Path(__file__).parents[2] / "deploy/kserve"
SCRIPTS = Path(__file__).parent / "kserve_scripts"
KSERVE = "kserve==0.21.0"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
SERVICES = [path for path in MANIFESTS if path.name != "runtime.yaml"]


def runtime() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "runtime.yaml").read_text())["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = runtime()["containers"]
    return dict(found)


def settings_of(arguments: list[str], environment: dict[str, str]) -> Settings:
    """The settings with which the container's entry point starts the server."""
    command = typer.main.get_command(app)
    given = command.make_context("serve", arguments).params
    flags = collect_flags(
        assignments=given["assignments"], model_dir=given["model_dir"],
        model_name=given["model_name"],
    )  # fmt: skip
    return load_settings(given["settings"], flags, environment)


def runtime_settings(**environment: str) -> Settings:
    arguments = [each.replace("{{.Name}}", "mine") for each in container()["args"]]
    return settings_of(arguments, environment)


def test_the_runtime_starts_the_server_where_kserve_looks() -> None:
    assert container()["name"] == "kserve-container"
    settings = runtime_settings()
    assert settings.model_dir == Path("/mnt/models") and settings.model_name == "mine"
    assert settings.listen == ["0.0.0.0:8080"]
    assert runtime()["protocolVersions"] == ["v2", "grpc-v2"]
    assert settings.grpc_listen == ["0.0.0.0:9000"]  # KServe's port of gRPC
    (operations,) = settings.operations_listen
    notes = runtime()["annotations"]
    assert operations.endswith(":" + notes["prometheus.kserve.io/port"])
    paths = {route.path for route in ROUTER.routes if route.method == "GET"}
    assert notes["prometheus.kserve.io/path"] in paths
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container()[probe]["httpGet"]
        assert request["path"] in paths and request["path"].startswith("/v2/health/")
        assert request["port"] == 8080
    startup = container()["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.ready_timeout
    probe = container()["readinessProbe"]
    assert settings.drain_delay > probe["periodSeconds"] * probe["failureThreshold"]


def test_what_the_server_writes_to_is_mounted() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in runtime()["volumes"]}
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    assert container()["securityContext"]["runAsNonRoot"]
    assert volumes[mounts["/dev/shm"]]["medium"] == "Memory"
    runtime_dir = runtime_settings().runtime_dir
    assert runtime_dir is not None and runtime_dir.is_relative_to("/dev/shm")
    temporary = {each["name"]: each["value"] for each in container()["env"]}["TMPDIR"]
    assert temporary in mounts


def test_the_name_may_be_written_with_underscores() -> None:
    settings = settings_of(["--model_dir", "/mnt/models", "--model_name=a"], {})
    assert (settings.model_dir, settings.model_name) == (Path("/mnt/models"), "a")


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_examples_use_the_runtime(path: Path) -> None:
    predictor = yaml.safe_load(path.read_text())["spec"]["predictor"]
    model = predictor["model"]
    assert model["runtime"] == "cupola"
    known = [(each["name"], each["version"]) for each in runtime()["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in known
    assert model["protocolVersion"] in runtime()["protocolVersions"]
    ports = {each["name"]: each["containerPort"] for each in model.get("ports", [])}
    assert ports == ({"h2c": 9000} if model["protocolVersion"] == "grpc-v2" else {})
    environment = {each["name"]: each["value"] for each in model.get("env", [])}
    assert all(name.startswith("CUPOLA_") for name in environment)
    settings = runtime_settings(**environment)
    needed = settings.drain_delay + settings.worker_shutdown_timeout
    assert predictor["terminationGracePeriodSeconds"] > needed
    assert predictor.get("timeout", 60) == settings.request_timeout
    for name, value in environment.items():
        setting = getattr(settings, name.removeprefix("CUPOLA_").lower())
        assert setting == (json.loads(value) if value[0] == "{" else type(setting)(value))


def test_each_task_has_an_example() -> None:
    assert {path.stem for path in SERVICES} >= set(tasks.names())


# ---- with KServe's own package


@pytest.fixture
def kserve(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in the environment of KServe's package."""
    python = python_with(request.config, KSERVE)

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(python), str(SCRIPTS / script), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_manifests_fit_the_schemas(kserve: Any, tmp_path: Path) -> None:
    done = kserve("validate.py", *MANIFESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (FOLDER / "runtime.yaml").read_text()
    changes = [
        ("protocolVersions", "protocolVersion", "unknown field protocolVersion"),
        ("autoSelect: true", "autoSelect: yes please", "expected bool"),
        ("failureThreshold: 150", "failureThreshold: many", "failureThreshold: expected int"),
        ("- name: kserve-container", "- stdin: true", "name Field required"),
        ("kind: ClusterServingRuntime", "kind: Runtime", "unknown kind"),
    ]
    for number, (old, new, _) in enumerate(changes):
        assert old in text
        (tmp_path / f"{number}.yaml").write_text(text.replace(old, new, 1))
    done = kserve("validate.py", *sorted(tmp_path.glob("*.yaml")))
    assert done.returncode >= len(changes), done.stdout + done.stderr
    for number, (_, _, said) in enumerate(changes):
        assert any(
            f"/{number}.yaml: " in line and said in line for line in done.stdout.splitlines()
        ), (said, done.stdout)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_its_clients(kserve: Any, serve: Callable[..., Running], tmp_path: Path) -> None:
    write_bundle(tmp_path, "models")
    address = f"127.0.0.1:{free_port()}"
    server = serve(
        models=[], model_dir=str(tmp_path / "models"), model_name="mine", grpc_listen=[address]
    )
    for script, url in (("rest.py", f"http://127.0.0.1:{server.port}"), ("grpc_v2.py", address)):
        done = kserve(script, url, "mine")
        assert done.returncode == 0, done.stdout + done.stderr
