"""A tiny forecast bundle with random weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cupola.bundles import write_bundle
from cupola.models.afno import AFNONet

MODEL = {
    "type": "AFNONet",
    "img_size": [8, 16],
    "patch_size": 4,
    "in_chans": 2,
    "out_chans": 2,
    "embed_dim": 16,
    "depth": 1,
    "num_blocks": 4,
    "residual": True,
}

PREPROCESS = {
    "channels": ["u", "v"],
    "units": ["m s-1", "m s-1"],
    "mean": [1.0, -2.0],
    "std": [2.0, 4.0],
    "grid": {"kind": "torus", "size": [8, 16], "length": 1.0},
    "interval": 0.5,
    "interval_unit": "turns",
}

CONFIG = {
    "name": "toy",
    "version": "1",
    "task": "forecast",
    "model": MODEL,
}


def toy_bundle(folder: Path, **preprocess: Any) -> Path:
    """Writes the bundle, with two examples of four states, and returns its folder."""
    torch.manual_seed(0)
    config = {**CONFIG, "preprocess": {**PREPROCESS, **preprocess}}
    model = AFNONet(**{key: value for key, value in MODEL.items() if key != "type"})
    write_bundle(folder, config, model.state_dict(), "", torch.float32)
    (folder / "example").mkdir()
    save_file({"fields": torch.randn(2, 4, 2, 8, 16)}, folder / "example/flows.safetensors")
    return folder
