"""Reads the AFNO goldens: models with formula weights, inputs, stored outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from goldens import seeded

FOLDER = Path(seeded.__file__).parent


class Golden:
    """One golden: its settings, and its checks."""

    def __init__(self, name: str) -> None:
        self.meta: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        self.stored = load_file(FOLDER / f"{name}.safetensors")
        self.config: dict[str, Any] = self.meta["config"]

    def weights(self, part: str = "") -> dict[str, Tensor]:
        entry = self.meta["weights"][part] if part else self.meta["weights"]
        return {
            key: torch.from_numpy(seeded.seeded_weight(key, shape, part, dtype))
            for key, shape, dtype in entry["keys"]
        }

    def input(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        shape = shape or tuple(self.meta["inputs"][name]["shape"])
        return torch.from_numpy(seeded.seeded_input(name, shape))

    def difference(self, name: str, tensor: Tensor) -> tuple[float, float]:
        """(largest absolute difference, largest absolute value) of output `name`."""
        entry = self.meta["outputs"][name]
        assert list(tensor.shape) == entry["shape"]
        flat = np.ascontiguousarray(tensor.detach().numpy())
        flat = seeded.flat_sample(flat, entry.get("flat_stride", 1))
        expected = self.stored[entry["stored"]].numpy().reshape(-1)
        return float(np.abs(flat - expected).max()), entry["absmax"]

    def check(self, name: str, tensor: Tensor, tolerance: float) -> None:
        difference, _ = self.difference(name, tensor)
        assert difference <= tolerance, f"{name}: {difference} > {tolerance}"

    def check_relative(self, name: str, tensor: Tensor, tolerance: float) -> None:
        difference, largest = self.difference(name, tensor)
        assert difference <= tolerance * largest, f"{name}: {difference / largest} > {tolerance}"
