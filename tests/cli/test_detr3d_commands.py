"""detr3d-scenes from the command line: generate, predict, draw; and what the bundle promises."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cupola.bundles import Bundle
from cupola.cli.data import app as data
from cupola.cli.predict import app as predict
from cupola.errors import InputError

NAME = "detr3d-scenes"


def run(app, *arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_generate_predict_and_draw(tmp_path: Path) -> None:
    small = ("--scenes", "1", "--frames", "1", "--height", "48", "--width", "80")
    said = run(data, "driving-scenes", str(tmp_path), *small)
    assert "1 samples" in said
    assert len(list(tmp_path.glob("samples/CAM_*/*.jpg"))) == 6
    out = tmp_path / "street.png"
    sample = str(tmp_path / "sample")
    rows = json.loads(run(predict, NAME, sample, "--json", "--threshold", "0", "--out", str(out)))
    assert {"name", "score", "bottom", "size", "yaw", "velocity"} <= rows[0].keys()
    with Image.open(out) as image:
        assert image.size[0] > image.size[1]
    assert "class" in run(predict, NAME, sample, "--threshold", "0")


def test_the_bundle_finds_what_its_example_shows() -> None:
    bundle = Bundle.load(NAME)
    assert bundle.weights_path.stat().st_size < 12 * 2**20
    assert bundle.config["metrics"]["mAP"] > 0.1  # the mean layout of the streets gives 0.001
    assert "mean layout" in bundle.card
    rows = json.loads(run(predict, NAME, str(bundle.path / "example"), "--json"))
    assert "car" in {row["name"] for row in rows}


def test_without_a_source_the_example_of_the_bundle_is_the_input(tmp_path: Path) -> None:
    for name in (NAME, "detr-digits"):
        done = CliRunner().invoke(predict, [name, "--json"], catch_exceptions=False)
        assert done.exit_code == 0 and json.loads(done.stdout), done.output
        assert str(Bundle.load(name).path / "example") in done.stderr
    for name in ("config.json", "weights.safetensors"):
        shutil.copy(Bundle.load("detr-digits").path / name, tmp_path)
    with pytest.raises(InputError, match="detr-digits has no example; pass an image"):
        run(predict, str(tmp_path))


def test_a_folder_without_a_sample_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sample\.json: cannot be read"):
        run(predict, NAME, str(tmp_path))
