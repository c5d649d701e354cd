"""Linear layers of a network in eight bits. Convolutions stay as they are."""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.parallel.eight_bits import EightBitMatrix
from cupola.runtime.optimize.network import EngineUnavailableError, with_shared_weights

LEAST = 64 * 64  # entries of a matrix; smaller ones, such as box codes, stay exact


class EightBitLinear(nn.Linear):
    """A Linear of inference whose matrix and inputs are rounded to eight bits."""

    stored: EightBitMatrix

    def forward(self, x: Tensor) -> Tensor:
        """As Linear: [..., I] -> [..., O]."""
        return self.stored(x, self.bias) if x.numel() else super().forward(x)


def in_eight_bits(model: Any) -> Any:
    """A copy of a model for inference whose large linear layers compute in eight bits."""
    found = with_shared_weights(model)
    layers = [each for each in found.modules() if type(each) is nn.Linear]
    large = [each for each in layers if each.weight.numel() >= LEAST]
    if not large:
        raise EngineUnavailableError("the model has no linear layers of 64 x 64 or more")
    for layer in large:
        layer.__class__ = EightBitLinear
        layer.__dict__["stored"] = EightBitMatrix(layer.weight)
    return found
