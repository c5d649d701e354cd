"""CondInstBboxHead: FCOS's head, which also predicts the numbers of a network for every cell.

Letters: B images, S cells of all levels, K numbers of a network, P chosen cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.models.dense import grid_points
from cupola.models.dense.anchor_head import joined_levels
from cupola.models.dense.postprocess import suppressed
from cupola.models.dense.targets import mask_centers
from cupola.models.fcos.head import FCOSHead
from cupola.registry import MODELS
from cupola.structures import Detections

Size = tuple[int, int]
Targets = Sequence[Mapping[str, Tensor]]


class CondInstOutput(NamedTuple):
    """FCOSOutput with the networks [B, K, h_i, w_i] of every level."""

    logits: tuple[Tensor, ...]
    sides: tuple[Tensor, ...]
    centerness: tuple[Tensor, ...]
    networks: tuple[Tensor, ...]


class Instances(NamedTuple):
    """Networks [P, K] of chosen cells at points [P, 2] of levels with strides [P].

    In training also the index of their objects [P], and how well the cells predict them [P].
    """

    networks: Tensor
    points: Tensor
    strides: Tensor
    objects: Tensor | None = None
    quality: Tensor | None = None

    def chosen(self, which: Tensor) -> "Instances":
        """Those with the indices `which`."""
        found = (each if each is None else each[which] for each in self)
        return Instances(*found)  # type: ignore[arg-type]


@MODELS.register_module()
class CondInstBboxHead(FCOSHead):
    """An FCOSHead with `num_params` numbers for every cell, from the convolutions for boxes.

    Cells near the center of mass of an object's mask train it.
    Source: mmdet/models/dense_heads/condinst_head.py.
    """

    def __init__(self, num_classes: int, in_channels: int, num_params: int = 169, **options: Any):
        super().__init__(num_classes, in_channels, **options)
        self.controller = nn.Conv2d(self.feat_channels, num_params, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Any:
        """Feature maps [B, C, h_i, w_i] -> CondInstOutput."""
        return CondInstOutput(*self.levels(maps))

    def predictions(
        self, for_class: Tensor, for_box: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, ...]:
        """Features of a level -> logits, distances, centerness and networks."""
        found = super().predictions(for_class, for_box, scale, stride)
        return *found, self.controller(for_box)

    def centers(self, target: Mapping[str, Tensor]) -> Tensor | None:
        """Centers of mass of the objects' masks [N, 2]."""
        if "masks" not in target:
            raise ValueError("targets need masks to train this model: load annotations with_mask")
        return mask_centers(target["masks"]).to(target["boxes"])

    def loss_and_positives(
        self, output: CondInstOutput, targets: Targets
    ) -> tuple[dict[str, Tensor], list[Instances]]:
        """FCOS's losses, and of every image the cells that train."""
        wanted = self.targets(output, targets)
        losses = self.losses_of(output, wanted)
        logits, _, central, networks = self.joined(output)
        quality = logits.detach().sigmoid().amax(-1) * central.detach().sigmoid()[..., 0]
        found = []
        for i, owner in enumerate(wanted.owners):
            mark = owner >= 0
            place = (wanted.cells.points[mark], wanted.cells.strides[mark])
            found.append(Instances(networks[i][mark], *place, owner[mark], quality[i][mark]))
        return losses, found

    def detect(
        self, output: CondInstOutput, sizes: Sequence[Size]
    ) -> list[tuple[Detections, Instances]]:
        """Detections of every image, in pixels of the input, and their networks."""
        points = grid_points(output.logits, self.strides)
        counts = torch.tensor([len(each) for each in points], device=points[0].device)
        stride = points[0].new_tensor(self.strides).repeat_interleave(counts)
        networks = joined_levels(output.networks, output.networks[0].shape[1])
        answers = []
        for i, candidates, places in self.candidates(output, sizes, self.test_cfg):
            found, kept = suppressed(candidates, self.test_cfg)
            place = places[kept]
            instances = Instances(networks[i][place], torch.cat(points)[place], stride[place])
            answers.append((found, instances))
        return answers


@MODELS.register_module()
class BoxInstBboxHead(CondInstBboxHead):
    """A CondInstBboxHead; the masks of its targets are whole boxes."""
