"""The queries of the decoder: learned, or the best proposals of the encoder (two-stage).

Letters: B images, S cells of all levels, Q queries, C channels, K classes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.layers import FeatureLevels, sine_waves

SMALLEST = 0.05  # side of the boxes of the finest level; each level doubles it
BORDER = 0.01  # boxes with a center this close to the border, or such a side, are not proposed


class Queries(NamedTuple):
    """content, position: [B, Q, C]. references: [B, Q, 2 or 4], in 0..1 of the image."""

    content: Tensor
    position: Tensor
    references: Tensor


class Proposals(NamedTuple):
    """What the encoder found in every cell: logits [B, S, K], and the logits of boxes [B, S, 4].

    Cells without a proposal (padding, borders) have boxes of infinite logits: all sides are 1.
    """

    logits: Tensor
    boxes: Tensor

    def take(self, index: Tensor) -> "Proposals":
        """Those of the cells index [B, Q]."""
        return Proposals(
            *(each.gather(1, index[..., None].expand(-1, -1, each.shape[-1])) for each in self)
        )


def learned_queries(embedding: Tensor, reference_points: nn.Module, batch: int) -> Queries:
    """embedding [Q, 2 * C], positions before contents -> queries with points as references."""
    position, content = embedding[None].expand(batch, -1, -1).chunk(2, dim=-1)  # [B, Q, C]
    return Queries(content, position, reference_points(position).sigmoid())


def anchors(levels: FeatureLevels) -> tuple[Tensor, Tensor]:
    """A box around every cell, and whether it is proposed: [B, S, 4] in 0..1, [B, S, 1] bool.

    Fractions are those of the image without padding, so padded cells lie outside of 0..1.
    Source: mmdet/models/detectors/deformable_detr.py, gen_encoder_output_proposals.
    """
    boxes, start = [], 0
    B, like = levels.cells.shape[0], levels.valid_ratios
    for level, (height, width) in enumerate(levels.shapes):
        y = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
        x = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
        rows, columns = y.expand(B, -1) / height, x.expand(B, -1) / width
        if levels.padding is not None:
            cells = ~levels.padding[:, start : start + height * width].view(B, height, width)
            rows, columns = y / cells[:, :, :1].sum(1), x / cells[:, 0].sum(1, keepdim=True)
        center = torch.stack(
            (
                columns[:, None].expand(-1, height, -1),
                rows[..., None].expand(-1, -1, width),
            ),
            -1,
        ).flatten(1, 2)  # [B, hw, 2]
        boxes.append(torch.cat((center, torch.full_like(center, SMALLEST * 2.0**level)), -1))
        start += height * width
    found = torch.cat(boxes, 1)
    valid = ((found > BORDER) & (found < 1 - BORDER)).all(-1, keepdim=True)
    return found, valid if levels.padding is None else valid & ~levels.padding[..., None]


def propose(
    memory: Tensor,
    levels: FeatureLevels,
    project: nn.Module,
    norm: nn.Module,
    cls_branch: nn.Module,
    reg_branch: nn.Module,
) -> Proposals:
    """Classes and boxes that the encoder finds in every cell of memory [B, S, C]."""
    features, boxes = proposal_features(memory, levels, project, norm)
    return Proposals(cls_branch(features), reg_branch(features) + boxes)


def proposal_features(
    memory: Tensor, levels: FeatureLevels, project: nn.Module, norm: nn.Module
) -> tuple[Tensor, Tensor]:
    """What proposals are made from: features [B, S, C], and the logits of anchors [B, S, 4]."""
    boxes, valid = anchors(levels)
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~valid, math.inf)
    return norm(project(memory.masked_fill(~valid, 0.0))), logits


def best_cells(scores: Tensor, count: int) -> Tensor:
    """The `count` cells with the highest scores [B, S], best first -> [B, count]."""
    if not torch.compiler.is_exporting() and scores.shape[1] < count:
        raise InputError(
            f"the model proposes {count} boxes, one per feature cell, but this image has only "
            f"{scores.shape[1]} cells; use a larger image"
        )
    return scores.topk(count, dim=1).indices


def proposed_queries(boxes: Tensor, project: nn.Linear, norm: nn.Module) -> Queries:
    """Box logits [B, Q, 4] -> queries with boxes as references, made from their coordinates."""
    references = boxes.detach().sigmoid()
    waves = sine_waves(references * (2 * math.pi), project.in_features // 4)  # [B, Q, 4, C / 2]
    position, content = norm(project(waves.flatten(-2))).chunk(2, dim=-1)
    return Queries(content, position, references)
