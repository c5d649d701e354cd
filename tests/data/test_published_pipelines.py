"""Every pipeline of mmdet's published configs is built; goldens/README.md says where they are.

A step either works on an image or is refused by its name with what to do.
"""

import json
import lzma
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cupola.data.pipeline import OBJECTS, Compose
from cupola.data.unavailable import REASONS
from cupola.errors import CupolaError, DataError
from cupola.train.version2_pipeline import translated_pipeline
from zoo import FOLDER

with lzma.open(FOLDER / "published_pipelines.tsv.xz", "rt") as file:
    _LINES = [line.rstrip("\n").split("\t") for line in file]
# A step's JSON -> the config it is from and those that have it.
STEPS: dict[str, tuple[str, int]] = {}
for _version, _count, _config, _pipeline in _LINES:
    _steps: Any = json.loads(_pipeline)
    # One of 3.3.0, Fast R-CNN's of guided anchoring, is left in the spelling of 2.x.
    _old = _version.startswith("2") or "flip_ratio" in _pipeline or "MultiScale" in _pipeline
    for _step in translated_pipeline(_steps) if _old else _steps:
        _text = json.dumps(_step, sort_keys=True)
        _name, _before = STEPS.get(_text, (f"{_version}/{_config}", 0))
        STEPS[_text] = (_name, _before + int(_count))
MOVES_BOXES_ONLY = ("RandomAffine", "RandomCenterCropPad", "ProposalBroadcaster")


def image(step: str) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    found: dict[str, Any] = {
        "image": Image.fromarray(pixels),
        "boxes": np.array([[2, 3, 30, 28]], np.float32),
        "labels": np.array([3]),
        "crowd": np.array([False]),
        "scale_factor": (1.0, 1.0),
        "proposals": np.array([[1, 1, 20, 20]], np.float32),
        "original_size": (30, 40),
        "image_id": 1,
    }
    if not any(kind in step for kind in MOVES_BOXES_ONLY):
        found["masks"] = np.zeros((1, 30, 40), bool)
        found["masks"][0, 3:28, 2:30] = True
        if '"Albu"' not in step:  # its keymaps have no map of classes
            found["semantic"] = pixels[..., 0]
    return found


def refusals(step: Any) -> Iterator[str]:
    """The types in a step, and in those inside it, that are not available."""
    if isinstance(step, list):
        for each in step:
            yield from refusals(each)
    elif isinstance(step, dict):
        name = str(step.get("type")).rpartition(".")[2]
        yield from [name] if name in REASONS else []
        for value in step.values():
            yield from refusals(value)


def failure(text: str) -> str:
    """What is wrong with a step that is available; empty if it works."""
    step = json.loads(text)
    if step["type"].rpartition(".")[2] == "TestTimeAug":  # is not a transform; `runtime` reads it
        return ""
    random = np.random.default_rng(0)
    try:
        found = Compose([step]).run(image(text), random, lambda *_: image(text), tries=50)
    except (CupolaError, TypeError) as error:
        extra = "albumentations" if find_spec("albumentations") is None else None
        return "" if extra and f"cupola[{extra}]" in str(error) else str(error)
    if found is None:
        return "rejects every image"
    counts = {len(found[key]) for key in OBJECTS if key in found}
    return "" if len(counts) == 1 else f"leaves {counts} objects"


@pytest.mark.filterwarnings("ignore:JpegCompression:FutureWarning")
def test_every_published_step_works_or_is_refused() -> None:
    wrong, refused = [], dict.fromkeys(REASONS, 0)
    for text, (config, count) in STEPS.items():
        if names := list(refusals(json.loads(text))):
            with pytest.raises(DataError, match=f"^({'|'.join(names)}) is not available: .*; "):
                Compose([json.loads(text)])
            for name in names:
                refused[name] += count
        elif found := failure(text):
            wrong.append(f"{config}: {text}: {found}")
    assert not wrong, "\n".join(wrong)
    assert len(STEPS) > 200 and sum(refused.values()) == 189, refused
