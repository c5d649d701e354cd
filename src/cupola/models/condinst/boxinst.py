"""BoxInst: CondInst that learns masks from boxes.

Letters: P masks, N objects, E neighbors of a pixel, (h, w) the size of masks in training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.condinst.box_head import Instances
from cupola.models.condinst.colors import neighbors, rgb_to_lab, similar_neighbors
from cupola.models.condinst.detector import CondInst
from cupola.models.condinst.mask_head import CondInstMaskHead
from cupola.models.dense import ImageSizes
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.registry import MODELS

Config = Mapping[str, Any]
Size = tuple[int, int]


@MODELS.register_module()
class BoxInstDataPreprocessor(DetDataPreprocessor):
    """A DetDataPreprocessor that finds which neighbors have similar colors.

    Colors are means of `mask_stride` pixels in Lab space; neighbors are those of a square of
    `pairwise_size` with `pairwise_dilation`. The lowest `bottom_pixels_removed` rows of the batch
    do not count, as there are often watermarks.
    Source: mmdet/models/data_preprocessors/data_preprocessor.py.
    """

    def __init__(
        self,
        *args: Any,
        mask_stride: int = 4,
        pairwise_size: int = 3,
        pairwise_dilation: int = 2,
        pairwise_color_thresh: float = 0.3,
        bottom_pixels_removed: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.stride, self.size, self.dilation = mask_stride, pairwise_size, pairwise_dilation
        self.threshold, self.removed = pairwise_color_thresh, bottom_pixels_removed

    @torch.no_grad()
    def similar(self, pixels: Tensor, content: Sequence[Size]) -> Tensor:
        """Normalized pixels [B, 3, H, W], images of sizes `content` -> [B, E, h, w], 0 or 1."""
        height, step = pixels.shape[-2], self.stride
        colors = F.avg_pool2d((pixels * self.std + self.mean).float(), step, step)
        found = []
        for image, (h, w) in zip(colors, content, strict=True):
            valid = pixels.new_zeros(pixels.shape[-2:])
            valid[: h - int(self.removed * float(h) / float(height)), :w] = 1
            lab = rgb_to_lab(image.clamp(0, 255).byte())
            valid = valid[step // 2 :: step, step // 2 :: step]
            similarity = similar_neighbors(lab, valid, self.size, self.dilation)
            found.append((similarity >= self.threshold).to(pixels))
        return torch.stack(found)


@MODELS.register_module()
class BoxInstMaskHead(CondInstMaskHead):
    """The projections of masks should be those of the boxes, and similar neighbors belong together.

    The second loss grows in the first `warmup_iters` steps.
    Source: mmdet/models/dense_heads/boxinst_head.py.
    """

    def __init__(
        self,
        *args: Any,
        pairwise_size: int = 3,
        pairwise_dilation: int = 2,
        warmup_iters: int = 10000,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.size, self.dilation, self.warmup = pairwise_size, pairwise_dilation, warmup_iters
        self.iteration = 0  # set by the trainer

    def box_loss(
        self,
        features: Tensor,
        positives: Sequence[Instances],
        targets: Sequence[Mapping[str, Tensor]],
        size: Size,
        similar: Tensor,
    ) -> dict[str, Tensor]:
        """loss_mask_project and loss_mask_pairwise; similar [B, E, h, w] are neighbors' colors."""
        found, wanted = self.pairs(features, positives, targets, size)
        projection = pairwise = self.no_masks(features, positives)
        average = 0.0
        for masks, goal, alike in zip(found, wanted, similar, strict=True):
            if not len(masks):
                continue
            for axis in (1, 2):
                sides = masks.amax(axis, keepdim=True), goal.amax(axis, keepdim=True)
                projection = projection + self.loss_mask(*sides, avg_factor=1.0)
            weights = alike * goal[:, None]  # [P, E, h, w]
            pairwise = pairwise + (self.disagreement(masks) * weights).sum()
            average += max(float(weights.sum()), 1.0)
        count = sum(len(masks) for masks in found)
        growing = min(self.iteration / float(self.warmup), 1.0)
        return {
            "loss_mask_project": projection / max(count, 1),
            "loss_mask_pairwise": pairwise / (average or 1.0) * growing,
        }

    def disagreement(self, logits: Tensor) -> Tensor:
        """-log of the probability that neighbors are the same: [P, h, w] -> [P, E, h, w]."""
        parts = []
        for sign in (1, -1):
            log = F.logsigmoid(sign * logits)[:, None]
            parts.append(log + neighbors(log, self.size, self.dilation)[:, 0])
        return -torch.logaddexp(*parts)


@MODELS.register_module()
class BoxInst(CondInst):
    """Source: mmdet/models/detectors/boxinst.py."""

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """FCOS's losses, loss_mask_project and loss_mask_pairwise; targets have boxes, labels."""
        if not isinstance(self.data_preprocessor, BoxInstDataPreprocessor):
            raise ValueError("BoxInst trains with a data_preprocessor BoxInstDataPreprocessor")
        content, pixels = ImageSizes.of(batch).content, self.padded(batch["pixels"])
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        targets = [
            {**each, "masks": box_masks(each["boxes"], size).to(pixels.device)}
            for each in batch["targets"]
        ]
        output = self(pixels)
        losses, positives = self.bbox_head.loss_and_positives(output.boxes, targets)
        similar = self.data_preprocessor.similar(pixels, content)
        masks: dict[str, Tensor] = self.mask_head.box_loss(
            output.features, positives, targets, size, similar
        )
        return losses | masks


def box_masks(boxes: Tensor, size: Size) -> Tensor:
    """Boxes [N, 4], xyxy -> the masks [N, H, W] that fill them, their last pixels included."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, box in zip(masks, boxes.tolist(), strict=True):
        left, top, right, bottom = int(box[0]), int(box[1]), int(box[2] + 1), int(box[3] + 1)
        mask[top:bottom, left:right] = True
    return masks
