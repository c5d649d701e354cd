"""TridentFasterRCNN and its head of regions.

Letters: B images, N branches that compute. Their maps are [N * B, ...], branch by branch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.dense import Candidates, ImageSizes, suppress
from cupola.models.rcnn.detector import TwoStageDetector
from cupola.models.rcnn.masks import Size
from cupola.models.rcnn.standard import StandardRoIHead
from cupola.registry import MODELS
from cupola.structures import Detections

ALL = -1  # test_branch_idx of a model that predicts with all branches
MERGED = ("nms", "max_per_img")  # the settings of a merge


@MODELS.register_module()
class TridentRoIHead(StandardRoIHead):
    """A StandardRoIHead that merges the detections of branches.

    Source: mmdet/models/roi_heads/trident_roi_head.py.
    """

    def __init__(self, num_branch: int, test_branch_idx: int, **options: Any) -> None:
        super().__init__(**options)
        self.branches, self.test_branch = num_branch, test_branch_idx

    def merged(self, found: Sequence[Detections]) -> Detections:
        """The detections of an image's branches, after NMS among all of them."""
        boxes, scores, labels = zip(*((d.boxes, d.scores, d.labels) for d in found), strict=True)
        every = Candidates(torch.cat(boxes), torch.cat(scores), torch.cat(labels))
        cfg = {key: self.test_cfg[key] for key in self.test_cfg if key in MERGED}
        return suppress(every, cfg)


@MODELS.register_module()
class TridentFasterRCNN(TwoStageDetector):
    """Trains all branches; predicts with the one that the head's `test_branch_idx` names, or all.

    Source: mmdet/models/detectors/trident_faster_rcnn.py.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        names = ("num_branch", "test_branch_idx")
        settings = [options[part].get(name) for part in ("backbone", "roi_head") for name in names]
        if settings[:2] != settings[2:] or self.roi_head.predicts_masks:
            raise ValueError(
                "TridentNet's backbone and roi_head have the same num_branch and test_branch_idx, "
                f"and no masks; got {settings[:2]} and {settings[2:]}"
            )

    @property
    def takes_views(self) -> bool:  # type: ignore[override]
        """Whether one branch predicts: of several the original averages the first alone."""
        return self.branches == 1

    @property
    def branches(self) -> int:
        """How many branches compute now."""
        every = self.training or self.roi_head.test_branch == ALL
        return int(self.roi_head.branches) if every else 1

    def forward(
        self,
        pixels: Tensor,
        padding_mask: Tensor | None = None,
        sizes: Sequence[Size] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> Any:
        """pixels [B, 3, H, W] -> the output of the RoI head, branch by branch."""
        whole = [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels)
        every = list(sizes or whole) * self.branches
        given = None if proposals is None else list(proposals) * self.branches
        return super().forward(pixels, padding_mask, every, given)

    def scored_boxes(
        self, pixels: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of the tested branch; ValueError where all are."""
        if self.branches > 1:
            raise ValueError("an export has one branch: set test_branch_idx to its index")
        return super().scored_boxes(pixels, padding_mask)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of all branches, as of one batch."""
        sizes = ImageSizes.of(batch)
        batch = {**batch, "image_sizes": sizes.content, "padded_sizes": sizes.padded}
        return super().loss(self._of_branches(batch))

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """Detections per image, in pixels of the original image if `scale_factors` are given."""
        found = super().predict(self._of_branches(batch))
        count = len(batch["image_sizes"])
        return [self.roi_head.merged(found[i::count]) for i in range(count)]

    def _of_branches(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its targets and sizes for every branch."""
        names = {
            "targets", "image_sizes", "padded_sizes", "scale_factors", "original_sizes", "proposals"
        }  # fmt: skip
        return {
            key: list(value) * self.branches if key in names and value is not None else value
            for key, value in batch.items()
        }
