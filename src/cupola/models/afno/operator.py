"""FieldOperator: the roll-out, loss and prediction that AFNO and FNO share.

Letters: B samples, C channels, H rows, W columns, T steps.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.structures.grids import Grid, relative_l2


class FieldOperator(nn.Module):
    """A network that maps a state [B, C_in, H, W] to the next, [B, C_out, H, W].

    If C_in > C_out, the channels after C_out are forcings (orography, a mask) and stay fixed.

    latitude_weights: weight the loss by the cosine of latitude, on a regular global grid.
    """

    def __init__(self, latitude_weights: bool = False) -> None:
        super().__init__()
        self.latitude_weights = latitude_weights

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """One step: [B, C_in, H, W] -> [B, C_out, H, W]."""

    def rollout(self, x: Tensor, steps: int) -> Iterator[Tensor]:
        """Yields `steps` states [B, C_out, H, W], each computed from the one before."""
        for _ in range(steps):
            state = self(x)
            yield state
            x = torch.cat([state, x[:, state.shape[1] :]], dim=1)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Relative L2 of each of the T steps of batch["y"] [B, T, C_out, H, W].

        Their sum is the multi-step loss of FourCastNet's fine-tuning (T = 2).
        """
        truth = batch["y"]
        H, W = truth.shape[-2:]
        weights = Grid.globe(H, W).weights().to(truth) if self.latitude_weights else None
        steps = self.rollout(batch["x"], truth.shape[1])
        return {
            f"loss_step{number + 1}": relative_l2(state, truth[:, number], weights).mean()
            for number, state in enumerate(steps)
        }

    def predict(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """One [T, C_out, H, W] per sample, as many steps as batch["y"] has (1 without it)."""
        steps = batch["y"].shape[1] if "y" in batch else 1
        return list(torch.stack(list(self.rollout(batch["x"], steps)), dim=1))
