"""What an export of a forecast model writes: one step."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.runtime.export import Program


class Step(torch.nn.Module):
    """x [1, C, H, W] -> y [1, C_out, H, W]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


def program(predictor: Any, size: tuple[int, int] | None) -> Program:
    """What an export writes: one step of the model."""
    shape: tuple[int, ...] = predictor.model.example_shape
    height, width = size or (predictor.grid.shape if predictor.grid else shape[-2:])
    example = (torch.zeros(1, len(predictor.channels), height, width),)
    return Program(Step(nn.to_torch(predictor.model)), example, ("x",), ("y",))
