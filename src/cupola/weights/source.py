"""Source: what every layout of a language model's checkpoint offers, under our names."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.weights.families import LanguageFamily

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Disagreement:
    """A replicated parameter whose copies differ between the ranks' shards."""

    key: str
    largest: float


class Source(ABC):
    """A checkpoint of one family under our names."""

    family: LanguageFamily
    disagreements: list[Disagreement]
    notes: list[str]  # what was removed before the keys were read
    padded: bool = False  # whether the vocabulary may have rows of padding at its end

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Every parameter and its whole shape."""

    @abstractmethod
    def read(self, key: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows `start` up to `stop` of a parameter along `dim`."""

    def dtype(self, key: str) -> torch.dtype:
        """A parameter's type."""
        return self.read(key, 0, 0, 1).dtype

    def whole(self, key: str) -> Tensor:
        """All of a parameter."""
        return self.read(key, 0, 0, self.shapes()[key][0])
