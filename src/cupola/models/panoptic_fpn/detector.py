"""PanopticFPN: two stages for things, one branch for stuff, and their fusion."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola.models.maskformer.fusion import resize_masks
from cupola.models.panoptic_fpn.semantic_head import VOID
from cupola.models.rcnn import TwoStageDetector
from cupola.registry import MODELS
from cupola.structures import Detections

Config = Mapping[str, Any]
Size = tuple[int, int]
INSTANCES = ("score_thr", "nms", "max_per_img", "mask_thr_binary")  # in 2.x they are in `panoptic`


@MODELS.register_module()
class PanopticFPN(TwoStageDetector):
    """Detections are the segments of the panoptic segmentation, things and stuff.

    Source: mmdet/models/detectors/panoptic_two_stage_segmentor.py.
    """

    takes_views = False

    def __init__(
        self,
        backbone: Config,
        roi_head: Config,
        semantic_head: Config,
        panoptic_fusion_head: Config,
        test_cfg: Config | None = None,
        **parts: Any,
    ) -> None:
        test = dict(test_cfg or {})
        panoptic = test.pop("panoptic", None) or {}
        moved = {key: panoptic[key] for key in INSTANCES if key in panoptic}
        test["rcnn"] = {**(test.get("rcnn") or {}), **moved}
        super().__init__(backbone, roi_head, test_cfg=test, **parts)
        if not self.roi_head.predicts_masks:
            raise ValueError("PanopticFPN needs a mask_head in its roi_head")
        self.semantic_head = MODELS.build(semantic_head)
        self.panoptic_fusion_head = MODELS.build({**panoptic_fusion_head, "test_cfg": panoptic})

    @property
    def num_classes(self) -> int:
        """Things and stuff."""
        return int(self.panoptic_fusion_head.num_classes)

    def forward(
        self,
        pixels: Tensor,
        padding_mask: Tensor | None = None,
        sizes: Sequence[Size] | None = None,
        proposals: Sequence[Tensor] | None = None,
    ) -> Any:
        """The output of the RoI head, and the stuff logits [B, C, h, w]."""
        maps = self.maps(pixels)
        sizes = sizes or [(int(pixels.shape[-2]), int(pixels.shape[-1]))] * len(pixels)
        found = self.roi_head(maps, self.proposals(maps, sizes, proposals), sizes)
        return *found, self.semantic_head(maps)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of both stages, and loss_seg.

        Targets have a mask for every thing and every class of stuff (labels from the number of
        things on), or those of the things alone and "semantic", the classes of pixels [H, W].
        """
        pixels = self.padded(batch["pixels"])
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        labels = torch.stack([semantic_map(each, size) for each in batch["targets"]])
        things = [self._things(each) for each in batch["targets"]]
        maps = self.maps(pixels)
        losses = self.loss_of_maps(maps, {**batch, "targets": things})
        stuff: dict[str, Tensor] = self.semantic_head.loss(self.semantic_head(maps), labels)
        return losses | stuff

    def _things(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = target["labels"] < self.panoptic_fusion_head.num_things
        return {k: v if k == "semantic" else v[kept] for k, v in target.items()}

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Detections]:
        """The panoptic segmentation of every image, in pixels of `original_sizes` if given."""
        pixels, sizes = self.padded(batch["pixels"]), batch["image_sizes"]
        maps = self.maps(pixels)
        factors = batch.get("scale_factors") or [None] * len(sizes)
        originals = batch.get("original_sizes") or sizes
        proposals = self.proposals(maps, sizes, batch.get("proposals"))
        found = self.roi_head.predict(maps, proposals, sizes, factors, originals)
        padded = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        logits = self.semantic_head(maps).float()
        return [
            self.panoptic_fusion_head.fuse(each, resize_masks(stuff, padded, size, original))
            for each, stuff, size, original in zip(found, logits, sizes, originals, strict=True)
        ]


def semantic_map(target: Mapping[str, Tensor], size: Size) -> Tensor:
    """The class of every pixel of the batch's size (height, width), VOID where there is none."""
    labels = target["labels"]
    found = torch.full(size, VOID, device=labels.device)
    if "semantic" in target:
        given = target["semantic"].to(found)
        found[: given.shape[0], : given.shape[1]] = given
        return found
    if "masks" not in target:
        raise ValueError("targets need masks of things and stuff, or `semantic`, to train")
    for label, mask in zip(labels.tolist(), target["masks"], strict=True):
        found[: mask.shape[0], : mask.shape[1]][mask] = label
    return found
