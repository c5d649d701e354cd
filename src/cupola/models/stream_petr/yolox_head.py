"""YOLOXHeadCustom: RepDETR3D's auxiliary 2-D head, which only its training uses.

Letters: B samples, N cameras, P positive cells of all cameras.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.boxes.distances import centers
from cupola.models.dense.targets import AnchorTargets, PaddedTargets
from cupola.models.stream_petr.camera_targets import CameraTargets
from cupola.models.yolox.head import YOLOXHead, summed
from cupola.registry import MODELS

# What the original calls the losses of YOLOXHead: "bbox" is the L1 loss of what encodes a box.
NAMES = {"loss_cls": "cls", "loss_bbox": "iou", "loss_obj": "obj", "loss_l1": "bbox"}
L1: Mapping[str, Any] = {"type": "L1Loss", "reduction": "sum", "loss_weight": 1.0}


@MODELS.register_module()
class YOLOXHeadCustom(YOLOXHead):
    """YOLOXHead that also predicts where the center of the box in space is seen.

    The L1 loss of the boxes is always computed. Source: yolox_head.py of StreamPETR.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        loss_centers2d: Mapping[str, Any] = L1,
        **settings: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, feat_channels, **settings)
        self.use_l1 = True
        self.loss_centers2d = MODELS.build(summed(loss_centers2d))
        self.multi_level_conv_centers2d = nn.ModuleList(
            nn.Conv2d(feat_channels, 2, 1) for _ in self.anchors.strides
        )

    def camera_losses(
        self, levels: Sequence[Tensor], targets: Sequence[CameraTargets], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The losses of maps [B, N, channels, h_l, w_l] towards the objects of B * N cameras.

        enc_loss_cls, _iou, _obj, _bbox (L1 of what encodes a box) and _centers2d.
        """
        maps = [level.flatten(0, 1) for level in levels]
        objects = PaddedTargets.of([each._asdict() for each in targets], maps[0])
        towers = self.towers(maps)
        output = self.read(towers)
        match = self.match(output, objects)
        found = {
            f"enc_loss_{NAMES[name]}": loss
            for name, loss in self.losses_towards(output, match).items()
        }
        places = torch.cat(
            [
                conv(for_box).flatten(2).transpose(1, 2)
                for conv, (_, for_box) in zip(self.multi_level_conv_centers2d, towers, strict=True)
            ],
            1,
        )  # [B * N, S, 2], in strides from the cell
        return found | {"enc_loss_centers2d": self._center_loss(places, targets, match.wanted)}

    def _center_loss(
        self, places: Tensor, targets: Sequence[CameraTargets], wanted: AnchorTargets
    ) -> Tensor:
        found = places[wanted.positive]  # [P, 2]
        if not len(found):
            return places.sum() * 0
        image = wanted.positive.nonzero()[:, 0].tolist()
        pairs = zip(image, wanted.objects.tolist(), strict=True)
        seen = torch.stack([targets[at].centers[number] for at, number in pairs]).to(places)
        stride = wanted.anchors[:, 2:3] - wanted.anchors[:, 0:1]
        goal = (seen - centers(wanted.anchors)) / stride
        total = self.average(wanted.positive.sum())
        loss: Tensor = self.loss_centers2d(found, goal, avg_factor=total)
        return loss
