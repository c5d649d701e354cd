"""Bundles on disk: read without torch, and errors that name the file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles import Bundle, shipped_names
from cupola.errors import BundleError

WEIGHTS = "weights.safetensors"
ABOUT = {"name": "toy", "version": "1", "task": "forecast"}


def folder(path: Path, config: Any, *files: str) -> Path:
    """A folder with that config.json and these empty files."""
    (path / "config.json").write_text(json.dumps(config))
    for name in files:
        (path / name).touch()
    return path


def test_reading_bundles_and_listing_tasks_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from cupola.bundles import Bundle, shipped_names\n"
        "from cupola.runtime import Predictor, tasks\n"
        "import cupola.serve.settings.models\n"
        "found = {Bundle.load(name).task for name in shipped_names()}\n"
        "assert found <= set(tasks.names()), found\n"
        "assert tasks.find('forecast').page == 'forecast'\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_bundle_is_found_by_name_folder_or_itself(tmp_path: Path) -> None:
    shipped = Bundle.load("detr-digits")
    assert "detr-digits" in shipped_names()
    assert Bundle.load(shipped.path) == Bundle.load(shipped) == shipped
    made = Bundle.load(folder(tmp_path, {**ABOUT, "model": {}, "labels": "ab"}, WEIGHTS))
    assert (made.name, made.version, made.task, made.card) == ("toy", "1", "forecast", "")
    assert (made.labels, made.weights_path) == (("a", "b"), tmp_path / WEIGHTS)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "toy"}, r"config\.json: lacks version, task"),
        ([1], r"config\.json: expected an object, found a list"),
        ({**ABOUT, "model": {}}, r"holds no weights\.safetensors"),
        (
            {"architectures": ["DetrModel"]},
            "a transformers checkpoint of DetrModel; only language",
        ),
    ],
)
def test_damaged_bundles_are_named(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.load(folder(tmp_path, config))


def test_a_config_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"config\.json: is not JSON"):
        Bundle.load(tmp_path)


def test_a_bundle_may_have_no_model_until_one_is_built(tmp_path: Path) -> None:
    bundle = Bundle.load(folder(tmp_path, ABOUT))
    with pytest.raises(BundleError, match=r"config\.json: lacks model"):
        _ = bundle.model_config


@pytest.mark.parametrize("named", [{"architectures": ["BloomForCausalLM"]}, {}])
def test_a_folder_of_transformers_is_a_bundle(tmp_path: Path, named: dict[str, Any]) -> None:
    config = {"model_type": "bloom", "n_layer": 2, **named}
    bundle = Bundle.load(folder(tmp_path, config))
    assert (bundle.name, bundle.version, bundle.task) == (tmp_path.name, "1", "language")
    assert bundle.model_config == {"type": "BloomForCausalLM", **config}
    assert bundle.weights_path == tmp_path


def test_what_ends_a_text_is_read_from_the_generation_config(tmp_path: Path) -> None:
    source = folder(tmp_path, {"model_type": "llama", "eos_token_id": 2})
    generation = tmp_path / "generation_config.json"
    for content, expected in (({"eos_token_id": [2, 7]}, [2, 7]), ({"do_sample": True}, 2)):
        generation.write_text(json.dumps(content))
        assert Bundle.load(source).model_config["eos_token_id"] == expected
    generation.write_text("[]")
    with pytest.raises(BundleError, match=r"generation_config\.json: (is not JSON|expected)"):
        Bundle.load(source)
