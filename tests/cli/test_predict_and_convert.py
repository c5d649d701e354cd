"""`cupola predict` and `cupola convert` as a user calls them."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import cupola
from cupola.bundles import Bundle
from cupola_commands import run_cupola

EXAMPLE = next(iter(sorted((Bundle.load("detr-digits").path / "example").glob("*.[pj][np]g"))))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_cupola(*arguments)


def test_predict_prints_and_draws(tmp_path: Path) -> None:
    done = run("predict", "detr-digits", EXAMPLE, "--json", "--out", tmp_path / "drawn.png")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert rows
    assert {"name", "label", "score", "box"} == set(rows[0])
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(EXAMPLE) as image:
        assert drawn.size == image.size


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_bad_images_get_one_line_and_exit_code_2(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    done = run("predict", "detr-digits", tmp_path / "photo.jpg")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "photo.jpg" in done.stderr


def test_unknown_bundles_name_the_nearest() -> None:
    done = run("predict", "detr-digit", EXAMPLE)
    assert done.returncode == 2
    assert "did you mean 'detr-digits'" in done.stderr


def test_convert_there_and_back(tmp_path: Path) -> None:
    bundle = Bundle.load("detr-digits")
    there, back = tmp_path / "facebook.safetensors", tmp_path / "ours.safetensors"
    assert (
        run("convert", "detr-digits", bundle.weights_path, there, "--to", "facebook").returncode
        == 0
    )
    assert "class_embed.weight" in load_file(there)
    assert run("convert", "detr-digits", there, back).returncode == 0
    model = cupola.build(bundle.config["model"], weights=bundle.weights_path)
    assert model.state_dict().keys() == load_file(back).keys()
    save_file({"x": load_file(back)["query_embedding.weight"]}, tmp_path / "odd.safetensors")
    done = run("convert", "detr-digits", tmp_path / "odd.safetensors", back)
    assert done.returncode == 2
    assert "no dialect" in done.stderr


@pytest.mark.parametrize("command", ["predict", "generate"])
def test_a_device_that_is_not_there_is_one_line(command: str) -> None:
    name = "bloom-tiny" if command == "generate" else "detr-digits"
    words = ["Once"] if command == "generate" else []
    done = run(command, name, *words, "--device", "cuda:99")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("cupola: device 'cuda:99': not on this machine")
