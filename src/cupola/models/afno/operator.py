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

    If C_in > C_out, the channels after C_out are forcings (orography, a mask, the sun).

    latitude_weights: weight the loss by the area of the rows.
    """

    def __init__(self, latitude_weights: bool = False) -> None:
        super().__init__()
        self.latitude_weights = latitude_weights

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """One step: [B, C_in, H, W] -> [B, C_out, H, W]."""

    def rollout(
        self,
        x: Tensor,
        steps: int,
        forcings: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yields `steps` states [B, C_out, H, W], each computed from the one before.

        forcings [B, steps - 1, F, H, W]: the channels after C_out at the later times; without them
        they keep their first values. mask [B, steps, C_out, H, W]: points where it is 0 are fed
        back as 0.
        """
        for number in range(steps):
            state = self(x)
            yield state
            if number + 1 < steps:
                if mask is not None:
                    state = torch.where(mask[:, number], state, 0.0)
                rest = x[:, state.shape[1] :] if forcings is None else forcings[:, number]
                x = torch.cat([state, rest], dim=1)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Relative L2 of each of the T steps of batch["y"] [B, T, C_out, H, W].

        Their sum is the multi-step loss of FourCastNet's fine-tuning (T = 2). Rows are weighted by
        batch["weights"] [H, 1], if latitude_weights is set; points where batch["mask"] is 0 do not
        count.
        """
        truth, mask = batch["y"], batch.get("mask")
        weights = self._weights(batch)
        steps = self.rollout(batch["x"], truth.shape[1], batch.get("forcings"), mask)
        losses = {}
        for number, state in enumerate(steps):
            target = truth[:, number]
            if mask is not None:
                state, target = (torch.where(mask[:, number], f, 0.0) for f in (state, target))
            losses[f"loss_step{number + 1}"] = relative_l2(state, target, weights).mean()
        return losses

    def _weights(self, batch: Mapping[str, Any]) -> Tensor | None:
        if not self.latitude_weights:
            return None
        truth = batch["y"]
        known = batch.get("weights")
        return (Grid.globe(*truth.shape[-2:]).weights() if known is None else known).to(truth)

    def predict(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """One [T, C_out, H, W] per sample, as many steps as batch["y"] has (1 without it)."""
        steps = batch["y"].shape[1] if "y" in batch else 1
        states = self.rollout(batch["x"], steps, batch.get("forcings"), batch.get("mask"))
        return list(torch.stack(list(states), dim=1))
