"""An installed plug-in adds a task: every command and the server take its bundles.

Nothing names the package; it is found by its entry point.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from serve_harness import SRC, Running, output

from cupola_commands import run_cupola

PLUGIN = Path(__file__).parents[1] / "runtime" / "task_plugin"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed package in `site`, a published model, and an image."""
    folder = tmp_path_factory.mktemp("task")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    command = [sys.executable, "-m", "pip", *install, str(folder / "site"), str(PLUGIN)]
    subprocess.run(command, check=True)
    (folder / "config.py").write_text(
        "model = dict(type='Brightness', scale=1.0)\nunit = 'white'\n"
    )
    torch.save({"weight": torch.full((3,), 1 / 3)}, folder / "model.pth")
    (folder / "images").mkdir()
    Image.new("RGB", (6, 4), (255, 0, 0)).save(folder / "images" / "red.png")
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{SRC}:{folder / 'site'}", "OMP_NUM_THREADS": "1"}


def cupola(folder: Path, *arguments: str) -> str:
    done = run_cupola(*arguments, cwd=folder, env=environment(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    """The bundle of the model, as `cupola bundle` makes it."""
    assert "brightness, 3 weights" in cupola(folder, "bundle", "config.py", "model.pth", "bright")
    return folder / "bright"


def test_a_bundle_holds_what_the_task_takes_from_the_config(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    assert (config["task"], config["preprocess"]) == ("brightness", {"unit": "white"})
    assert (bundle / "unit.txt").read_text() == "of white"


@pytest.mark.slow
@pytest.mark.slow
def test_the_commands_take_the_bundle(folder: Path, bundle: Path) -> None:
    image = "images/red.png"
    (row,) = json.loads(cupola(folder, "predict", "bright", image, "--json", "--out", "gray.png"))
    assert row["brightness"] == pytest.approx(1 / 3)
    with Image.open(folder / "gray.png") as drawn:
        assert drawn.getpixel((0, 0)) == 85
    assert "0.33" in cupola(folder, "predict", "bright", image)
    from_config = cupola(folder, "predict", "config.py", image, "--weights", "model.pth", "--json")
    assert json.loads(from_config) == [row]
    scores = json.loads(cupola(folder, "evaluate", "bright", "--data", "images", "--json"))
    assert scores == {"mean": row["brightness"]}
    written = cupola(folder, "export", "bright", "bright.pt2", "--format", "torch")
    assert "pixels [1, 3, 8, 8] -> brightness" in written
    program = torch.export.load(folder / "bright.pt2").module()
    assert program(torch.ones(1, 3, 8, 8)).item() == pytest.approx(1)


@pytest.mark.processes
def test_the_server_answers_and_lists_the_page(folder: Path, bundle: Path) -> None:
    server = Running(folder / "server", models=[str(bundle), "detr-digits"], plugins=[])
    server.start(env=environment(folder))
    try:
        server.wait_ready()
        white = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [255] * 3}
        status, _, body = server.ask(
            "POST", "/v2/models/bright/infer", json.dumps({"inputs": [white]})
        )
        assert status == 200 and output(json.loads(body), "brightness") == [1.0]
        assert server.get("/v2/models/bright")[1]["platform"] == "cupola_brightness"
        assert server.get("/pages/models.json")[1] == [
            {"name": "bright", "task": "brightness", "page": "brightness"},
            {
                "name": "detr-digits",
                "task": "detection",
                "page": "detection",
                "threshold": 0.5,
                "labels": list("0123456789"),
            },
        ]
        assert b"<title>Brightness</title>" in server.get("/pages/brightness.html")[1]
        assert b"measures brightness" in server.get("/pages/brightness/page.js")[1]
        for absent in ("brightness/__init__.py", "brightness/none.js", "none.html", "../x.html"):
            assert server.get(f"/pages/{absent}")[0] == 404
        assert_page(server)
    finally:
        server.stop()


def assert_page(server: Running) -> None:
    """The page of the lowest rank is at /, and the list leads to the others."""
    if not Path(CHROMIUM).exists():
        assert b"<title>Brightness</title>" in server.get("/")[1]
        return
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        sync_api.expect(page.locator("#summary")).to_have_text("bright measures brightness")
        page.select_option("#model", "detr-digits")
        page.wait_for_url("**/pages/detection.html?model=detr-digits")
        browser.close()
