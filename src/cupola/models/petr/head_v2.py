"""PETRv2Head: PETR on two frames, with positions gated by the features and a regression in groups.

Letters as in head.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.detr3d import DETR3DOutput
from cupola.models.petr.denoising import (
    Noise,
    denoising_losses,
    losses_without_noise,
    make_noisy_queries,
)
from cupola.models.petr.head import PETRHead, Views
from cupola.registry import MODELS
from cupola.structures import boxes3d


class SELayer(nn.Module):
    """x * gate of another map, through two 1x1 convolutions (or linear layers)."""

    def __init__(self, channels: int, linear: bool = False) -> None:
        super().__init__()
        self.conv_reduce: nn.Module
        self.conv_expand: nn.Module
        if linear:
            self.conv_reduce = nn.Linear(channels, channels)
            self.conv_expand = nn.Linear(channels, channels)
        else:
            self.conv_reduce = nn.Conv2d(channels, channels, 1)
            self.conv_expand = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * self.conv_expand(self.conv_reduce(gate).relu()).sigmoid()


class RegLayer(nn.Module):
    """Shared linear layers, then one small network for each group of outputs.

    The groups are concatenated as they are, so that they do not coincide with the meaning of the
    channels where cz is the fifth of them (source: petrv2_head.py).
    """

    def __init__(
        self, embed_dims: int, shared_reg_fcs: int, group_reg_dims: Sequence[int], drop: float = 0.0
    ) -> None:
        super().__init__()
        shared: list[nn.Module] = []
        for _ in range(shared_reg_fcs):
            shared += [nn.Linear(embed_dims, embed_dims), nn.ReLU(), nn.Dropout(drop)]
        self.reg_branch = nn.Sequential(*shared)
        self.task_heads = nn.ModuleList(
            nn.Sequential(nn.Linear(embed_dims, embed_dims), nn.ReLU(), nn.Linear(embed_dims, size))
            for size in group_reg_dims
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., sum of the groups]"""
        shared = self.reg_branch(x)
        return torch.cat([head(shared) for head in self.task_heads], -1)


@MODELS.register_module()
class PETRv2Head(PETRHead):
    """`with_fpe` gates positions by features, `with_multi` regresses in groups.

    `with_time` divides the last two channels by the seconds between the frames: they become
    velocities. Sources: PETRv2 (arXiv 2206.01256); petrv2_head.py.
    """

    separate_branches = True

    def __init__(
        self,
        *args: Any,
        group_reg_dims: Sequence[int] = (2, 1, 3, 2, 2),
        with_fpe: bool = False,
        with_time: bool = False,
        with_multi: bool = False,
        **kwargs: Any,
    ) -> None:
        self.group_reg_dims = tuple(group_reg_dims)
        self.with_time = with_time
        self.with_multi = with_multi
        super().__init__(*args, **kwargs)
        if with_multi and sum(self.group_reg_dims) != self.code_size:
            raise ValueError(
                f"PETRv2Head: group_reg_dims {self.group_reg_dims} should add up to "
                f"{self.code_size}"
            )
        self.fpe = SELayer(self.embed_dims) if with_fpe else None

    def _box_branch(self) -> nn.Module:  # type: ignore[override]
        if not self.with_multi:
            return super()._box_branch()
        return RegLayer(self.embed_dims, self.num_reg_fcs, self.group_reg_dims)

    def gate_points(self, position: Tensor, features: Tensor) -> Tensor:
        if self.fpe is None:
            return position
        gated: Tensor = self.fpe(position.flatten(0, 1), features.flatten(0, 1))
        return gated.view(features.shape)

    def read(self, states: Tensor, references: Tensor, views: Views) -> DETR3DOutput:
        output = super().read(states, references, views)
        if not self.with_time:
            return output
        if views.seconds is None:
            raise InputError("this PETRv2 needs the times of its images, one in seconds for each")
        seconds = views.seconds.to(output.boxes)[:, None, None]
        boxes = torch.cat((output.boxes[..., :8], output.boxes[..., 8:] / seconds), -1)
        return DETR3DOutput(output.logits, boxes)


@MODELS.register_module()
class PETRv2DNHead(PETRv2Head):
    """PETRv2Head with query denoising in training.

    The denoised queries have no loss of the angle. Source: petrv2_dnhead.py.
    """

    def __init__(
        self,
        *args: Any,
        scalar: int = 5,
        noise_scale: float = 0.4,
        noise_trans: float = 0.0,
        dn_weight: float = 1.0,
        split: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.noise = Noise(int(scalar), noise_scale, noise_trans, split)
        self.dn_weight = dn_weight

    def training_loss(
        self, levels: Sequence[Tensor], views: Views, targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        limits = self.code_weights.new_tensor(self.pc_range)
        noisy = make_noisy_queries(
            [target["labels"] for target in targets],
            [boxes3d.bottom_to_center(target["boxes"]) for target in targets],
            self.noise,
            self.num_classes,
            limits,
        )
        if noisy is None or not self.training:
            output = self(levels, views)
            repeated = losses_without_noise(self, output, targets) if self.training else {}
            return self.loss(output, targets) | repeated
        features = self.project(levels)
        mask = self.cell_mask(views, features)
        position = self.embed_positions(features, views, mask)
        learned = self.reference_points.weight.expand(len(features), -1, -1)
        references = torch.cat((noisy.references.to(learned), learned), 1)
        attn_mask = noisy.mask(self.num_query)
        states = self.attend(features, position, mask, references, attn_mask)
        output, extra = self.read(states, references, views), noisy.count
        found = DETR3DOutput(*(each[:, :, :extra] for each in output))
        weights = self.code_weights.clone()
        weights[6:8] = 0
        losses = self.loss(DETR3DOutput(*(each[:, :, extra:] for each in output)), targets)
        return losses | denoising_losses(self, found, noisy, self.noise, self.dn_weight, weights)
