"""DETR3D: images of several calibrated cameras -> 3-D boxes.

Letters: B samples, N cameras, L decoder layers, Q queries, C classes.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.detr3d.box_head import DETR3DOutput
from cupola.models.detr3d.extraction import extract_maps, set_pretrained
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.models.detr3d.grid_mask import GridMask
from cupola.models.detr3d.inspection import inspect_detr3d
from cupola.registry import MODELS
from cupola.structures import Detections3D

ImageSize = tuple[int, int] | Tensor


@MODELS.register_module(["DETR3D", "Detr3D"])
class DETR3D(nn.Module):
    """Backbone and neck process every image separately; the head's queries sample all of them.

    The head is built before the backbone, as in the original (which determines the random initial
    weights). `first_sample_size` True divides the projections of all samples by the image size of
    the first one, as the original does; False uses the size of each sample.
    Sources: DETR3D (arXiv 2110.06922); WangYueFt/detr3d; MMDetection3D projects/DETR3D.
    """

    def __init__(
        self,
        img_backbone: Mapping[str, Any],
        pts_bbox_head: Mapping[str, Any],
        img_neck: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        use_grid_mask: bool = False,
        first_sample_size: bool = True,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        pretrained: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        self.first_sample_size = first_sample_size
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
        self.init_weights()

    def init_weights(self) -> None:
        """Initializes the head; backbone and neck were initialized when built."""
        self.pts_bbox_head.init_weights()

    def extract(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Feature maps [B, N, channels, H_l, W_l] of images [B, N, 3, H, W]."""
        return extract_maps(self, pixels)

    def cameras(self, lidar2img: Tensor, image_size: ImageSize) -> Cameras:
        """Checks the matrices [B, N, 4, 4] and combines them with the image size."""
        B = lidar2img.shape[0]
        # At least float32: pixel coordinates in half precision would be useless.
        dtype = self.pts_bbox_head.query_embedding.weight.dtype
        lidar2img = lidar2img.to(torch.promote_types(dtype, torch.float32))
        if not isinstance(image_size, Tensor):  # in exported graphs its numbers are symbolic
            image_size = torch.stack([torch.scalar_tensor(side) for side in image_size])
        size = image_size.to(lidar2img)
        size = size.expand(B, 2)
        if self.first_sample_size:
            size = size[:1].expand(B, 2)
        if not torch.compiler.is_exporting():
            _warn_of_broken_cameras(lidar2img)
        return Cameras(lidar2img, size)

    def forward(self, pixels: Tensor, lidar2img: Tensor, image_size: ImageSize) -> DETR3DOutput:
        """pixels [B, N, 3, H, W], normalized and padded; lidar2img [B, N, 4, 4], meters -> pixels.

        image_size is (height, width) with padding, or a tensor [B, 2] of them.
        Returns logits [L, B, Q, C] and box codes [L, B, Q, 10] of all layers, the last one last.
        """
        cameras = self.cameras(lidar2img, image_size)
        output: DETR3DOutput = self.pts_bbox_head(self.extract(pixels), cameras)
        return output

    def ready(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, ImageSize]:
        """The arguments of forward, with raw images normalized by data_preprocessor."""
        if "pixels" in batch:
            return batch["pixels"], batch["lidar2img"], batch["image_size"]
        if self.data_preprocessor is None:
            raise ValueError(
                "the batch holds raw images, and this DETR3D has no data_preprocessor; "
                "add one to the model, or add `images` with mean and std to the dataset"
            )
        pixels = self.data_preprocessor(batch["raw_images"])
        return pixels, batch["lidar2img"], (pixels.shape[-2], pixels.shape[-1])

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch with pixels, image_size (or raw_images), lidar2img and targets."""
        output = self(*self.ready(batch))
        losses: dict[str, Tensor] = self.pts_bbox_head.loss(output, batch["targets"])
        return losses

    def predict(self, batch: Mapping[str, Any]) -> list[Detections3D]:
        """Detections of all samples of a batch, as for `loss`; targets are not needed."""
        output = self(*self.ready(batch))
        found: list[Detections3D] = self.pts_bbox_head.predict(output)
        return found

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: ImageSize
    ) -> dict[str, Tensor]:
        """Where each layer's queries of one sample read the images; see inspect_detr3d."""
        return inspect_detr3d(self, pixels, lidar2img, image_size)


def _warn_of_broken_cameras(lidar2img: Tensor) -> None:
    """Warns of matrices with NaN or infinity, whose cameras are skipped."""
    finite = lidar2img.isfinite().flatten(2).all(-1)  # [B, N]
    if not bool(finite.all()):
        where = ", ".join(f"camera {n} of sample {b}" for b, n in (~finite).nonzero().tolist())
        warnings.warn(f"lidar2img is not finite: {where} is skipped", stacklevel=3)
