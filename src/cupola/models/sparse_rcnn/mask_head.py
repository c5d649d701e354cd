"""DynamicMaskHead: masks of regions that the queries convolve first.

Letters: R regions, D channels, K positive regions of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.models.rcnn.mask_head import FCNMaskHead, mask_targets
from cupola.models.rcnn.sampling import RoISample
from cupola.parallel import SINGLE, Group, mean_over_ranks
from cupola.registry import MODELS

Config = Mapping[str, Any]
DYNAMIC: Config = {"type": "DynamicConv", "input_feat_shape": 14, "with_proj": False}
LOSS: Config = {"type": "DiceLoss", "loss_weight": 8.0}


@MODELS.register_module()
class DynamicMaskHead(FCNMaskHead):
    """Source: QueryInst, section 3.2; mmdet/models/roi_heads/mask_heads/dynamic_mask_head.py."""

    def __init__(
        self,
        dynamic_conv_cfg: Config = DYNAMIC,
        loss_mask: Config = LOSS,
        class_agnostic: bool = False,
        **options: Any,
    ) -> None:
        if class_agnostic:
            raise ValueError("DynamicMaskHead predicts a mask for each class: class_agnostic=False")
        super().__init__(loss_mask=loss_mask, **options)
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data
        self.instance_interactive_conv = MODELS.build(dynamic_conv_cfg)

    def init_weights(self) -> None:
        """Xavier's uniform initialization."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        layer: Any = self.conv_logits
        nn.init.zeros_(layer.bias)

    def masks(self, regions: Tensor, features: Tensor) -> Tensor:
        """Regions [R, D, h, w] and their queries' features [R, D] -> logits [R, C, m, n]."""
        cells = self.instance_interactive_conv(features, regions)  # [R, h * w, D]
        found: Tensor = self(cells.transpose(1, 2).reshape(regions.shape))
        return found

    def loss(
        self,
        logits: Tensor,
        samples: Sequence[RoISample],
        targets: Sequence[Mapping[str, Tensor]],
        cfg: Config,
    ) -> dict[str, Tensor]:
        """loss_mask of the positive regions' logits [K, C, m, n]."""
        count = mean_over_ranks(torch.tensor(float(len(logits))).to(logits), self.data_group)
        if not len(logits):
            return {"loss_mask": logits.sum()}
        wanted = mask_targets(samples, targets, cfg["mask_size"])
        labels = torch.cat([each.labels for each in samples])
        found = self.of_classes(logits, labels).sigmoid()
        return {"loss_mask": self.loss_mask(found, wanted, avg_factor=count.clamp(min=1))}
