"""PETR: images of several calibrated cameras -> 3-D boxes, without projecting any query.

Letters: B samples, N cameras, L decoder layers, Q queries, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola.errors import BuildError, InputError, did_you_mean
from cupola.models.constants import constant
from cupola.models.detr3d import DETR3DOutput, GridMask
from cupola.models.detr3d.camera_model import CameraModel
from cupola.models.detr3d.extraction import set_pretrained
from cupola.models.petr.head import Views
from cupola.models.petr.inspection import inspect_attention
from cupola.registry import MODELS, bare_type
from cupola.structures import Detections3D

ImageSize = Sequence[int] | Tensor


class CameraDetector(CameraModel):
    """A CameraModel of the configs of MMDetection3D, with a `pts_bbox_head`."""

    def __init__(
        self,
        img_backbone: Mapping[str, Any],
        pts_bbox_head: Mapping[str, Any],
        img_neck: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        use_grid_mask: bool = False,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        pretrained: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.data_preprocessor = MODELS.build(data_preprocessor) if data_preprocessor else None
        head = {
            **pts_bbox_head,
            "train_cfg": (train_cfg or {}).get("pts"),
            "test_cfg": (test_cfg or {}).get("pts"),
        }
        self.pts_bbox_head = MODELS.build(head)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck) if img_neck else None
        self.grid_mask = GridMask(True, True, rotate=1, ratio=0.5, mode=1, prob=0.7)
        self.use_grid_mask = use_grid_mask
        set_pretrained(self, pretrained)
        self.pts_bbox_head.init_weights()


@MODELS.register_module()
class PETR(CameraDetector):
    """The head's queries attend to all cells of all cameras, whose keys carry 3-D positions.

    As MMDetection3D's project PETR, it codes the angle of a box as -yaw - pi/2.
    Sources: PETR (arXiv 2203.05625); MMDetection3D projects/PETR.
    """

    turned = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head = self.pts_bbox_head
        if self.turned:
            head.box_code = replace(head.box_code, turned=True)

    def views(
        self, pixels: Tensor, lidar2img: Tensor, valid_size: ImageSize | None = None
    ) -> Views:
        """Checks the matrices [B, N, 4, 4], and makes the mask of the padding."""
        if lidar2img.shape != (*pixels.shape[:2], 4, 4):
            raise InputError(
                f"lidar2img should be {[*pixels.shape[:2], 4, 4]}, one matrix per image, "
                f"got {list(lidar2img.shape)}"
            )
        H, W = pixels.shape[-2:]
        mask = None if valid_size is None else padding_mask(pixels, valid_size)
        return Views(lidar2img, (H, W), mask)

    def forward(
        self, pixels: Tensor, lidar2img: Tensor, valid_size: ImageSize | None = None
    ) -> DETR3DOutput:
        """pixels [B, N, 3, H, W], normalized; lidar2img [B, N, 4, 4], meters -> pixels.

        `valid_size` is (height, width) of the images without the padding at the right and at the
        bottom, or a tensor of them [B, 2] or [B, N, 2]; None means that there is no padding.
        Returns logits [L, B, Q, C] and box codes [L, B, Q, 10] of all layers, the last one last.
        """
        views = self.views(pixels, lidar2img, valid_size)
        output: DETR3DOutput = self.pts_bbox_head(self.extract(pixels), views)
        return output

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: Any = None
    ) -> dict[str, Tensor]:
        """Where each layer's queries of one sample looked; see inspect_attention."""
        views = self.views(pixels, lidar2img)
        levels = self.extract(pixels)
        cells = levels[self.pts_bbox_head.position_level].shape[-2:]
        return inspect_attention(
            self.pts_bbox_head,
            lambda: self.pts_bbox_head(levels, views),
            cells,
        )

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch with pixels or raw_images, lidar2img and targets."""
        pixels = self.pixels_of(batch)
        output = self(pixels, batch["lidar2img"], batch.get("valid_size"))
        losses: dict[str, Tensor] = self.pts_bbox_head.loss(output, batch["targets"])
        return losses

    def predict(self, batch: Mapping[str, Any]) -> list[Detections3D]:
        """Detections of all samples of a batch, as for `loss`; targets are not needed."""
        pixels = self.pixels_of(batch)
        output = self(pixels, batch["lidar2img"], batch.get("valid_size"))
        found: list[Detections3D] = self.pts_bbox_head.predict(output)
        return found


class Petr3DOriginal(PETR):
    """PETR of megvii-research, which codes the yaw itself."""

    turned = False


DETECTORS = {
    "PETRHead": "PETRSingleFrame",
    "PETRHeadDN": "StreamPETR",
    "PETRv2Head": "PETRv2",
    "PETRv2DNHead": "PETRv2",
    "StreamPETRHead": "StreamPETR",
}


MODELS.register_module("PETRSingleFrame")(Petr3DOriginal)


@MODELS.register_module()
class Petr3D(CameraDetector):
    """The detector for a head: the configs of PETR, PETRv2 and StreamPETR all say Petr3D."""

    def __new__(  # type: ignore[misc]
        cls, pts_bbox_head: Mapping[str, Any], **settings: Any
    ) -> CameraDetector:
        kind = bare_type(pts_bbox_head)
        if kind not in DETECTORS:
            hint = did_you_mean(kind, DETECTORS)
            raise BuildError(
                f"Petr3D: pts_bbox_head is a {kind}, expected {sorted(DETECTORS)}{hint}"
            )
        made: CameraDetector = MODELS.get(DETECTORS[kind])(pts_bbox_head=pts_bbox_head, **settings)
        return made


def padding_mask(pixels: Tensor, valid_size: ImageSize) -> Tensor | None:
    """Images [B, N, 3, H, W] -> [B, N, H, W], bool, True outside of the valid size.

    None where the size, given as two numbers, is that of the images.
    """
    B, N, _, H, W = pixels.shape
    if not isinstance(valid_size, Tensor) and tuple(valid_size) == (H, W):
        return None
    if isinstance(valid_size, Tensor):
        size = valid_size.to(pixels.device)
    else:
        size = constant(tuple(valid_size), pixels)
    if size.dim() == 2:
        size = size[:, None]
    size = size.expand(B, N, 2)[..., None, None]  # [B, N, 2, 1, 1]
    rows = torch.arange(H, device=pixels.device)[:, None]
    columns = torch.arange(W, device=pixels.device)
    return (rows >= size[:, :, 0]) | (columns >= size[:, :, 1])
