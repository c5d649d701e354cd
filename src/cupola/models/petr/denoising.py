"""Query denoising in 3-D: noisy copies of the objects as extra queries in training.

Letters: B samples, G groups, m objects of the richest sample, Q learned queries, L layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cupola.models.detr3d import BoxHead3D, DETR3DOutput
from cupola.models.set_prediction import name_by_layer
from cupola.parallel import SINGLE, mean_over_ranks


@dataclass(frozen=True)
class Noise:
    """How objects are disturbed; the names in configs are scalar, noise_scale, noise_trans, split.

    groups: copies of every object. scale: shift of a center in half sides, plus `shift` meters.
    limit: copies that moved by more than this length, in units of the largest shift, are
    background.
    """

    groups: int
    scale: float
    shift: float
    limit: float


@dataclass(frozen=True)
class NoisyQueries:
    """G * m extra queries of every sample, in front of the learned ones.

    references: [B, G * m, 3] in 0..1, zeros where a sample has fewer objects. sample and index
    [K]: the place of each of the K copies. labels [K], the number of classes for background;
    boxes [K, 9], z at the center.
    """

    references: Tensor
    sample: Tensor
    index: Tensor
    labels: Tensor
    boxes: Tensor
    group_size: int

    @property
    def count(self) -> int:
        """G * m."""
        return self.references.shape[1]

    def mask(self, queries: int, propagated: int = 0, memory: int = 0) -> Tensor:
        """True where a query does not attend: [G * m + queries + propagated, keys].

        Keys are the extra queries, the learned ones and `memory` remembered ones. Groups do not
        see each other, and no other query sees them.
        """
        extra, m = self.count, self.group_size
        device = self.references.device
        mask = torch.zeros(
            extra + queries + propagated, extra + queries + memory, dtype=torch.bool, device=device
        )
        group = torch.arange(extra, device=device) // max(m, 1)
        mask[:extra, :extra] = group[:, None] != group
        mask[extra:, :extra] = True
        return mask


def make_noisy_queries(
    labels: Sequence[Tensor],
    boxes: Sequence[Tensor],
    noise: Noise,
    num_classes: int,
    pc_range: Tensor,
) -> NoisyQueries | None:
    """Objects of every sample, boxes [M, 9] with z at the center -> noisy copies, or None.

    Source: prepare_for_dn in streampetr_head.py. One random number is drawn per coordinate of
    each copy.
    """
    counts = [len(each) for each in labels]
    largest = max(counts, default=0)
    if largest == 0 or noise.groups == 0:
        return None
    all_labels = torch.cat(list(labels)).repeat(noise.groups)
    all_boxes = torch.cat(list(boxes)).repeat(noise.groups, 1)
    device = all_boxes.device
    sample = torch.cat([torch.full((n,), b) for b, n in enumerate(counts)]).repeat(noise.groups)
    place = torch.cat([torch.arange(n) for n in counts])
    index = torch.cat([place + largest * group for group in range(noise.groups)])
    centers = all_boxes[:, :3].clone()
    low, high = pc_range[:3], pc_range[3:]
    if noise.scale > 0:
        step = torch.rand_like(centers) * 2 - 1
        centers += step * (all_boxes[:, 3:6] / 2 + noise.shift) * noise.scale
        all_labels = torch.where(step.norm(dim=1) > noise.limit, num_classes, all_labels)
        centers = ((centers - low) / (high - low)).clamp(0, 1)
    references = torch.zeros(len(counts), largest * noise.groups, 3, device=device)
    sample, index = sample.to(device), index.to(device)
    references[sample, index] = centers
    return NoisyQueries(references, sample, index, all_labels, all_boxes, largest)


def denoising_losses(
    head: BoxHead3D,
    found: DETR3DOutput,
    noisy: NoisyQueries,
    noise: Noise,
    loss_weight: float,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """dn_loss_cls and dn_loss_bbox of the last layer, d0.dn_loss_cls, ... of those before.

    `found` are the outputs of the noisy queries, [L, B, G * m, ...]; `weights` of the numbers of a
    code [10], by default the head's. Copies that became background have a box loss too. As in
    BoxHead3D, box losses are divided by the mean over all ranks, class losses with
    sync_cls_avg_factor.
    """
    assert head.loss_cls is not None and head.loss_bbox is not None
    count = torch.tensor(float(len(noisy.labels)), device=noisy.boxes.device)
    codes = head.box_code.encode(noisy.boxes)
    valid = codes.isfinite().all(-1)
    volume = math.pi / 6 * noise.limit**3  # share of copies that stay objects
    weight = (head.code_weights if weights is None else weights).expand_as(codes)[valid]
    group = head.data_group if head.sync_cls_avg_factor else SINGLE
    layers = []
    for logits, boxes in zip(found.logits, found.boxes, strict=True):
        logits, boxes = logits[noisy.sample, noisy.index], boxes[noisy.sample, noisy.index]
        objects = max(float(mean_over_ranks(count * volume, group)), 1.0)
        classes = head.loss_cls(logits, noisy.labels, avg_factor=objects)
        copies = max(float(mean_over_ranks(count, head.data_group)), 1.0)
        places = head.loss_bbox(boxes[valid], codes[valid], weight, avg_factor=copies)
        layers.append(
            {
                "dn_loss_cls": loss_weight * torch.nan_to_num(classes),
                "dn_loss_bbox": loss_weight * torch.nan_to_num(places),
            }
        )
    return name_by_layer(layers)


def losses_without_noise(
    head: BoxHead3D, found: DETR3DOutput, targets: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """dn_loss_cls, ... of a batch without noisy queries: the usual losses once more, detached.

    They train nothing. All ranks log the same names and average the same counts, whichever of them
    has objects. Source: loss in streampetr_head.py.
    """
    return {
        name.replace("loss_", "dn_loss_"): loss.detach()
        for name, loss in head.loss(found, targets).items()
    }
