"""The golden reader with additions for the AFNO goldens."""

import torch
from torch import Tensor

from golden import Golden
from goldens import seeded


class FieldGolden(Golden):
    """A golden with formula inputs and checks in one call."""

    def layer_weights(self, part: str) -> dict[str, Tensor]:
        """Weights of one of several layers; the layer's name seeds the formula."""
        return {
            key: torch.from_numpy(seeded.seeded_weight(key, shape, part, dtype))
            for key, shape, dtype in self.json["weights"][part]["keys"]
        }

    def input(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        shape = shape or tuple(self.json["inputs"][name]["shape"])
        return torch.from_numpy(seeded.seeded_input(name, shape, self.prefix))

    def check(self, name: str, tensor: Tensor, tolerance: float) -> None:
        difference = self.difference(name, tensor)
        assert difference <= tolerance, f"{name}: {difference} > {tolerance}"

    def check_relative(self, name: str, tensor: Tensor, tolerance: float) -> None:
        difference = self.relative(name, tensor)
        assert difference <= tolerance, f"{name}: {difference} > {tolerance}"
