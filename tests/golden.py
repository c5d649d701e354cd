"""Reads a golden: weights and inputs from a formula, outputs of the original implementation."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from goldens import seeded

FOLDER = Path(__file__).parent / "goldens"


class Golden:
    """One golden by name: its config, weights, inputs, and the outputs to compare with."""

    folder = FOLDER

    def __init__(self, name: str) -> None:
        self.json: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        self.tensors = load_file(self.folder / f"{name}.safetensors")
        self.config = self.json["config"]
        self.prefix: str = self.json["seed_prefix"]

    def weights(self, entry: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Tensor]:
        """The original's state dict; the formula takes each key with `prefix` before it."""
        keys = (entry or self.json["weights"])["keys"]
        return {
            key: torch.from_numpy(
                seeded.seeded_weight(prefix + key, shape, self.prefix, dtype.replace("torch.", ""))
            )
            for key, shape, dtype in keys
        }

    def stored(self, name: str) -> Tensor:
        """An input that the golden stores."""
        return torch.from_numpy(self.tensors[f"in.{name}"])

    def image(self, name: str, shape: list[int]) -> Tensor:
        return torch.from_numpy(seeded.seeded_image(name, shape, self.prefix))

    def output(self, name: str) -> Tensor:
        return torch.from_numpy(self.tensors[f"out.{name}"])

    def difference(self, name: str, ours: Tensor) -> float:
        """Largest absolute difference to the stored output, which may be a strided sample."""
        about = self.json["outputs"][name]
        assert list(ours.shape) == list(about["shape"]), (name, ours.shape, about["shape"])
        array = ours.detach().cpu().numpy()
        stored = self.tensors[f"out.{name}"]
        if stride := about.get("flat_stride"):
            array, stored = seeded.flat_sample(array, stride), stored.reshape(-1)
        return float(np.abs(array.astype(np.float64) - stored.astype(np.float64)).max(initial=0))

    def relative(self, name: str, ours: Tensor) -> float:
        """The difference over the largest absolute value of the original's whole output."""
        about = self.json["outputs"][name]
        scale = about["absmax"] or 1.0
        return self.difference(name, ours) / max(float(scale), 1e-12)


@lru_cache(maxsize=4)
def golden(name: str) -> Golden:
    return Golden(name)
