"""DETR's head: class and box of every query."""

from torch import Tensor

from cupola import nn
from cupola.models.detr.set_head import DETROutput, SetPredictionHead
from cupola.models.layers import FFN
from cupola.registry import MODELS


@MODELS.register_module()
class DETRHead(SetPredictionHead):
    """hidden [L, B, Q, C] -> DETROutput, its losses and its detections.

    Source: mmdet/models/dense_heads/detr_head.py.
    """

    def build_layers(self, embed_dims: int, num_reg_fcs: int) -> None:
        """The layers that compute classes and boxes from hidden states."""
        classes = self.num_classes if self.use_sigmoid else self.num_classes + 1
        self.fc_cls = nn.Linear(embed_dims, classes)
        self.build_regression(embed_dims, num_reg_fcs)

    def build_regression(self, embed_dims: int, num_reg_fcs: int) -> None:
        """The layers that compute boxes from hidden states."""
        self.activate = nn.ReLU()
        self.reg_ffn = FFN(
            embed_dims, embed_dims, num_fcs=num_reg_fcs, ffn_drop=0.0, add_identity=False
        )
        self.fc_reg: nn.Module = nn.Linear(embed_dims, 4)

    def forward(self, hidden: Tensor) -> DETROutput:
        """hidden [L, B, Q, C], normed -> logits and boxes of every layer."""
        boxes = self.fc_reg(self.activate(self.reg_ffn(hidden))).sigmoid()
        return DETROutput(self.fc_cls(hidden), boxes)
