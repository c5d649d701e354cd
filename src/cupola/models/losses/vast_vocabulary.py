"""The losses of detectors with thousands of classes (V3Det, arXiv 2304.03752).

They are cross entropy and focal loss of sigmoid scores that no background has a logit of.
Sources: mmdet/models/losses/{cross_entropy_loss,focal_loss}.py. Letters: N samples, C classes.
"""

from typing import Any

import torch
from torch import Tensor

from cupola.models.losses.classification import CrossEntropyLoss, FocalLoss
from cupola.registry import MODELS


@MODELS.register_module()
class CrossEntropyCustomLoss(CrossEntropyLoss):
    """CrossEntropyLoss whose sigmoid scores leave what is missing to 1 to the background."""

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_classes = num_classes

    def channels(self, num_classes: int) -> int:
        """The number of logits for that many classes, which must be those of the loss."""
        _same(self, num_classes)
        return num_classes if self.use_sigmoid else num_classes + 1

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [N, C], by softmax [N, C + 1] -> scores [N, C + 1], the background last."""
        if not self.use_sigmoid:
            return logits.softmax(-1)
        scores = logits.sigmoid()
        return torch.cat((scores, (1 - scores.sum(-1, keepdim=True)).clamp(0, 1)), -1)

    def accuracy(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """acc_classes: how many percent of the objects [N] have the best score in their class."""
        return object_accuracy(logits[:, : self.num_classes], labels)


@MODELS.register_module()
class FocalCustomLoss(FocalLoss):
    """FocalLoss that knows the number of classes, and counts the objects that are right."""

    def __init__(self, num_classes: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_classes = num_classes

    def channels(self, num_classes: int) -> int:
        """The number of logits for that many classes, which must be those of the loss."""
        _same(self, num_classes)
        return num_classes

    def accuracy(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """acc_classes: how many percent of the objects [N] have the best score in their class."""
        return object_accuracy(logits, labels)


def object_accuracy(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Logits [N, C], labels [N] in 0..C (C = background) -> acc_classes, percent; 0 of nothing."""
    objects = labels < logits.shape[-1]
    right = (logits[objects].argmax(-1) == labels[objects]).float()
    return {"acc_classes": 100 * right.sum().detach() / max(len(right), 1)}


def _same(loss: CrossEntropyCustomLoss | FocalCustomLoss, num_classes: int) -> None:
    if num_classes != loss.num_classes:
        raise ValueError(
            f"{type(loss).__name__} has num_classes {loss.num_classes}, its head {num_classes}"
        )
