"""HTCMaskHead: a mask head that takes features of the stage before, and gives its own."""

from typing import Any

from torch import Tensor

from cupola.models.layers import ConvModule
from cupola.models.rcnn import FCNMaskHead
from cupola.registry import MODELS


@MODELS.register_module()
class HTCMaskHead(FCNMaskHead):
    """Without `with_conv_res` it is an FCNMaskHead, as the first stage needs it.

    Source: mmdet/models/roi_heads/mask_heads/htc_mask_head.py.
    """

    def __init__(
        self,
        with_conv_res: bool = True,
        conv_out_channels: int = 256,
        conv_cfg: Any = None,
        norm_cfg: Any = None,
        **options: Any,
    ) -> None:
        settings = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        super().__init__(conv_out_channels=conv_out_channels, **settings, **options)
        self.conv_res = None
        if with_conv_res:
            self.conv_res = ConvModule(conv_out_channels, conv_out_channels, 1, **settings)

    def features(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Regions [R, C, h, w] and the features of the stage before -> features [R, C, h, w]."""
        if before is not None and self.conv_res is not None:
            x = x + self.conv_res(before)
        for conv in self.convs:
            x = conv(x)
        return x

    def masks(self, features: Tensor) -> Tensor:
        """Features [R, C, h, w] -> mask logits [R, classes, m, n]."""
        logits: Tensor = self.conv_logits(self.upsampled(features))
        return logits
