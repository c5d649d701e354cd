"""Contrastive denoising: queries made from noisy objects, which training asks to repair.

Letters: B images, T objects of all images, N most objects of one image, G groups, C channels,
M = 2 * G * N denoising queries, Q matching queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.layers import inverse_sigmoid
from cupola.models.set_prediction import QueryTargets
from cupola.structures import boxes as box_ops

EPS = 1e-3  # of the logits of noisy boxes


@dataclass(frozen=True)
class Denoising:
    """content: [B, M, C]. boxes: [B, M, 4], logits of cxcywh. groups: G. targets: [B, M].

    Each group holds N positive queries, to be repaired, and N negative ones, to be rejected. Images
    with fewer objects than N have empty queries in between.
    """

    content: Tensor
    boxes: Tensor
    groups: int
    targets: QueryTargets

    @property
    def count(self) -> int:
        """M."""
        return self.content.shape[1]

    def mask(self, queries: int) -> Tensor:
        """[M + Q, M + Q], True where a query (row) must not see another (column).

        Groups do not see each other, and matching queries see no denoising query.
        """
        group = torch.arange(self.count, device=self.content.device) // max(
            self.count // self.groups, 1
        )
        blind = torch.zeros(
            self.count + queries, self.count + queries, dtype=torch.bool, device=group.device
        )
        blind[self.count :, : self.count] = True
        blind[: self.count, : self.count] = group[:, None] != group
        return blind


class CdnQueryGenerator(nn.Module):
    """Objects of a batch -> Denoising.

    `label_noise_scale` / 2 is the probability that a label is replaced by a random one. Corners of
    positive queries move by up to `box_noise_scale` / 2 of the box's size, those of negative ones
    by once to twice that. `group_cfg`: with dynamic=True there are as many groups as fit into
    num_dn_queries objects, otherwise num_groups.
    Source: mmdet/models/layers/transformer/dino_layers.py; paper, section 3.3. Random numbers are
    drawn in the original's order.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        label_noise_scale: float = 0.5,
        box_noise_scale: float = 1.0,
        group_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if label_noise_scale <= 0 or box_noise_scale <= 0:
            raise ValueError("dn_cfg: label_noise_scale and box_noise_scale should be positive")
        group_cfg = group_cfg or {}
        self.dynamic = group_cfg.get("dynamic", True)
        if not self.dynamic and not group_cfg.get("num_groups"):
            raise ValueError("dn_cfg: group_cfg needs num_groups with dynamic=False")
        self.num_dn_queries = int(group_cfg.get("num_dn_queries", 100))
        self.num_groups = int(group_cfg.get("num_groups") or 0)
        self.num_classes = num_classes
        self.label_noise_scale = label_noise_scale
        self.box_noise_scale = box_noise_scale
        self.label_embedding = nn.Embedding(num_classes, embed_dims)

    def forward(
        self, targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[tuple[int, int]]
    ) -> Denoising:
        """targets: boxes [n, 4] xyxy in pixels and labels [n]; sizes: (height, width)."""
        weight = self.label_embedding.weight
        units = [
            box_ops.scale(each["boxes"].to(weight.dtype), (1 / h, 1 / w))
            for each, (h, w) in zip(targets, sizes, strict=True)
        ]
        boxes, labels = torch.cat(units), torch.cat([each["labels"] for each in targets])
        counts = [len(each) for each in units]
        most, groups = max(counts), self.groups(max(counts))
        content = self.label_embedding(self.noisy_labels(labels.repeat(2 * groups)))
        noisy = inverse_sigmoid(self.noisy_boxes(boxes, groups), EPS)
        images, places = self._places(counts, groups, labels.device)
        where, queries = (images, places), (len(counts), 2 * groups * most)
        contents = content.new_zeros(*queries, content.shape[-1]).index_put(where, content)
        logits = boxes.new_zeros(*queries, 4).index_put(where, noisy)
        positive = places % max(2 * most, 1) < most
        wanted = torch.full(queries, self.num_classes, device=labels.device)
        wanted[images[positive], places[positive]] = labels.repeat(groups)
        goals = boxes.new_zeros(*queries, 4)
        goals[images[positive], places[positive]] = box_ops.xyxy_to_cxcywh(boxes).repeat(groups, 1)
        return Denoising(
            contents,
            logits,
            groups,
            QueryTargets(wanted, wanted < self.num_classes, goals),
        )

    def groups(self, most: int) -> int:
        """The number of groups if the largest image has `most` objects."""
        if not self.dynamic:
            return self.num_groups
        return max(self.num_dn_queries // most, 1) if most else 1

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """[n] -> [n], some replaced by random classes."""
        chosen = torch.rand(len(labels), device=labels.device) < self.label_noise_scale * 0.5
        index = chosen.nonzero()[:, 0]
        return labels.scatter(0, index, torch.randint_like(index, 0, self.num_classes))

    def noisy_boxes(self, boxes: Tensor, groups: int) -> Tensor:
        """xyxy in 0..1 [T, 4] -> cxcywh [2 * G * T, 4]: per group positives, then negatives."""
        repeated = boxes.repeat(2 * groups, 1)
        sign = torch.randint_like(repeated, low=0, high=2) * 2.0 - 1.0
        part = torch.rand_like(repeated)
        part.view(groups, 2, len(boxes), 4)[:, 1] += 1.0
        sides = (repeated[:, 2:] - repeated[:, :2]).repeat(1, 2)
        moved = repeated + part * sign * sides * self.box_noise_scale / 2
        return box_ops.xyxy_to_cxcywh(moved.clamp(0.0, 1.0))

    @staticmethod
    def _places(counts: Sequence[int], groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Image and place of every noisy object, each [2 * G * T]; the places of an image are M."""
        images = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
        within = torch.cat([torch.arange(n) for n in counts])
        starts = torch.arange(2 * groups)[:, None] * max(counts)
        return images.repeat(2 * groups).to(device), (starts + within).flatten().to(device)
