"""Each script of examples/ runs on small data and writes what it says."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles.bundle import SHIPPED
from ranks import free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def run(name: str, *arguments: str | Path, **options: Any) -> str:
    """Runs a script; its standard output."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment(), **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_scripts_are_short() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 8
    assert max(len(path.read_text().splitlines()) for path in scripts) < 60


def test_tensor_parallel() -> None:
    said = run("tensor_parallel.py")
    assert "rank 0 of 1: rows 0..1199 of the table, 8 of 8 ids; MLP [256, 64]" in said


@pytest.mark.slow
def test_tensor_parallel_on_four_ranks() -> None:
    alone = re.search(r"loss (\d+\.\d+)", run("tensor_parallel.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    done = subprocess.run(
        [*command, EXAMPLES / "tensor_parallel.py"],
        capture_output=True, text=True, timeout=240, env=environment(), check=True,
    )  # fmt: skip
    assert alone
    assert re.findall(r"loss (\d+\.\d+)", done.stdout) == [alone[1]] * 4
    assert done.stdout.count("MLP [64, 64] and [64, 64]") == 4


def test_detect_folder(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "found"
    photos.mkdir()
    shutil.copy(SHIPPED / "detr-digits/example/image.png", photos / "digits.png")
    (photos / "broken.jpg").write_text("not an image")
    said = run("detect_folder.py", photos, out)
    assert "skipped: " in said
    found = json.loads((out / "detections.json").read_text())
    assert list(found) == ["digits.png"]
    assert found["digits.png"][0]["score"] > 0.5
    assert (out / "digits.png").is_file()


@pytest.mark.slow
def test_finetune_coco(tmp_path: Path) -> None:
    from cupola.data.coco_writing import write_digits
    from cupola.data.digits import DigitsInPhotos

    annotations = write_digits(DigitsInPhotos(split="val", count=8, size=96), tmp_path / "data")
    content = json.loads(annotations.read_text())
    content["categories"] = content["categories"][:4]  # other classes than the shipped model's
    kept = [entry for entry in content["annotations"] if entry["category_id"] <= 4]
    annotations.write_text(json.dumps({**content, "annotations": kept}))
    said = run("finetune_coco.py", tmp_path / "data", "--steps", 1, "--work-dir", tmp_path / "run")
    assert "dialect cupola; missing: bbox_head.fc_cls" in said
    config = json.loads((tmp_path / "run/my-detector/config.json").read_text())
    assert config["labels"] == ["0", "1", "2", "3"]
    assert config["model"]["bbox_head"]["num_classes"] == 4


@pytest.mark.slow
def test_six_cameras(tmp_path: Path) -> None:
    said = run("six_cameras.py", SHIPPED / "detr3d-scenes/example", tmp_path / "street.png")
    assert re.search(r"car +0\.\d\d +\d+\.\d m away", said)
    assert (tmp_path / "street.png").is_file()


@pytest.mark.slow
def test_forecast_netcdf(tmp_path: Path) -> None:
    import xarray
    from safetensors.numpy import load_file

    flow = load_file(SHIPPED / "afno-navier-stokes/example/flows.safetensors")["fields"][0, :3, 0]
    flow = flow.astype("float32")
    xarray.Dataset({"vorticity": (("time", "y", "x"), flow)}).to_netcdf(tmp_path / "start.nc")
    said = run("forecast_netcdf.py", tmp_path / "start.nc", tmp_path / "out.nc", "--steps", 3)
    errors = [float(error) for error in re.findall(r"relative L2 (\S+)", said)]
    assert len(errors) == 2  # the file holds two later snapshots
    assert max(errors) < 0.2
    with xarray.open_dataset(tmp_path / "out.nc") as forecast:
        assert forecast["vorticity"].shape == (4, 32, 32)


def test_chat() -> None:
    said = run("chat.py", "--max-tokens", 8, input="Good morning.\nAnd then?\n\n")
    assert said.count("model:") == 2
    assert said.endswith("you: ")


@pytest.fixture
def behind_nginx() -> Iterator[str]:
    port, backend = free_port(), free_port()
    script = [sys.executable, EXAMPLES / "serve_behind_nginx.py", "detr-digits"]
    options = ["--port", port, "--backend", backend, "--nginx", NGINX]
    process = subprocess.Popen(
        [*map(str, [*script, *options])], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout
    try:
        assert process.stdout.readline().startswith("ready: ")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(60) == 0


@pytest.mark.processes
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_serve_behind_nginx(behind_nginx: str) -> None:
    body = (SHIPPED / "detr-digits/example/request.json").read_bytes()
    url = f"{behind_nginx}/v2/models/detr-digits/infer"
    request = urllib.request.Request(url, body, {"X-Request-Id": "mine"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["model_name"] == "detr-digits"
        assert response.headers["X-Request-Id"] == "mine"
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(f"{behind_nginx}/admin/reload", b"", timeout=10)
    refused.value.close()
