"""CentripetalHead: corners point to the centers of their boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.models.cornernet.head import KINDS, CornerHead, CornerLevel
from cupola.models.cornernet.pairing import Corners, best_corners
from cupola.models.cornernet.targets import CornerTargets
from cupola.models.layers import ConvModule
from cupola.models.layers.deform_conv import DeformConv2d
from cupola.registry import MODELS

Config = Mapping[str, Any]
GUIDING_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 0.05}
SHIFT_LOSS: Config = {"type": "SmoothL1Loss", "beta": 1.0}


@MODELS.register_module()
class CentripetalHead(CornerHead):
    """A guiding shift says where a deformable convolution looks, which predicts the other shift.

    Source: CentripetalNet (arXiv 2003.09119); mmdet/models/dense_heads/centripetal_head.py.
    """

    centered = True

    def __init__(
        self,
        *args: Any,
        centripetal_shift_channels: int = 2,
        guiding_shift_channels: int = 2,
        feat_adaption_conv_kernel: int = 3,
        loss_guiding_shift: Config = GUIDING_LOSS,
        loss_centripetal_shift: Config = SHIFT_LOSS,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if (centripetal_shift_channels, guiding_shift_channels) != (2, 2):
            raise ValueError("shifts of CentripetalHead have 2 channels, x and y")
        kernel, width = feat_adaption_conv_kernel, self.in_channels
        self.loss_guiding_shift = MODELS.build(loss_guiding_shift)
        self.loss_centripetal_shift = MODELS.build(loss_centripetal_shift)
        for kind in KINDS:
            self.add_module(
                f"{kind}_feat_adaption",
                nn.ModuleList(DeformConv2d(width, width, kernel, 1, 1) for _ in range(self.levels)),
            )
        for kind in KINDS:
            layers = nn.ModuleList(
                ConvModule(2, kernel**2 * 2, 1, bias=False, act_cfg=None)
                for _ in range(self.levels)
            )
            self.add_module(f"{kind}_dcn_offset", layers)
        self.add_predictions("guiding_shift", 2)
        self.add_predictions("centripetal_shift", 2)

    def init_weights(self) -> None:
        """Shifts as torch begins; convolutions around them from normal distributions."""
        super().init_weights()
        for kind in KINDS:
            for name, std in (("feat_adaption", 0.01), ("dcn_offset", 0.1)):
                for layer in getattr(self, f"{kind}_{name}"):
                    nn.init.normal_(getattr(layer, "conv", layer).weight, std=std)
            for name in ("guiding_shift", "centripetal_shift"):
                for layers in getattr(self, f"{kind}_{name}"):
                    for layer in layers:
                        layer.conv.reset_parameters()

    def level(self, kind: str, level: int, x: Tensor) -> CornerLevel:
        """Pooled features of a level -> what is predicted of one kind of corner."""
        part = {
            name: getattr(self, f"{kind}_{name}")[level]
            for name in (
                "heat", "off", "guiding_shift", "dcn_offset", "feat_adaption", "centripetal_shift"
            )
        }  # fmt: skip
        guiding = part["guiding_shift"](x)
        adapted = part["feat_adaption"](x, part["dcn_offset"](guiding.detach()))
        shift = part["centripetal_shift"](adapted)
        return CornerLevel(part["heat"](x), part["off"](x), None, guiding, shift)

    def best(self, level: CornerLevel, image: int, scale: Tensor, sign: int) -> Corners:
        """The best corners of an image, with the centers that they point to."""
        assert level.centripetal is not None
        parts = [each[image].float() for each in (level.heat, level.offset, level.centripetal)]
        scores, labels, points, shifts = best_corners(parts, self.test_cfg)
        return Corners(scores, labels, points * scale, (points + sign * shifts.exp()) * scale)

    def level_losses(
        self, levels: Sequence[CornerLevel], wanted: Sequence[CornerTargets]
    ) -> dict[str, Tensor]:
        """det_loss, off_loss, guiding_loss and centripetal_loss of a level."""
        losses = self.place_losses(levels, wanted)
        for name in ("guiding", "centripetal"):
            loss = getattr(self, f"loss_{name}_shift")
            parts = []
            for level, goal in zip(levels, wanted, strict=True):
                mask = goal.mask
                found, shift = getattr(level, name), getattr(goal, name)
                parts.append(loss(found, shift, mask, avg_factor=float(mask.sum())))
            losses[f"{name}_loss"] = (parts[0] + parts[1]) / 2
        return losses
