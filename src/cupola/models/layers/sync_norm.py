"""MMSyncBN: batch normalization over the batches of all ranks, which may be empty.

Letters: N batch, C channels.
"""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.parallel import SINGLE, Group, copy_to_ranks, reduce_from_ranks
from cupola.registry import MODELS


@MODELS.register_module()
class MMSyncBN(nn.BatchNorm2d):
    """[N, C, H, W] -> the same; an empty batch changes no statistics.

    `stats_mode` "default" averages the statistics of the ranks, "N" those of all samples. On one
    process it is BatchNorm2d. Source: mmcv/ops/sync_bn.py.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        stats_mode: str = "default",
        **settings: Any,
    ) -> None:
        if stats_mode not in ("default", "N"):
            raise ValueError(f"stats_mode is 'default' or 'N', got {stats_mode!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **settings)
        self.by_samples = stats_mode == "N"
        self.data_group: Group = SINGLE  # set by the trainer: the ranks that read other data

    def forward(self, input: Tensor) -> Tensor:
        group = self.data_group
        if not self._use_batch_statistics() or (group.size == 1 and len(input)):
            return super().forward(input)
        self._check_input_dim(input)
        weight = len(input) if self.by_samples else 1
        count = _sum(input.new_tensor([float(len(input)), float(weight)]), group)
        divisor = count[1].clamp(min=1)
        mean = _sum(_mean(input) * weight, group) / divisor
        var = _sum(_mean((input - _column(mean)).square()) * weight, group) / divisor
        if count[0] > 0:
            self._track(input, mean.detach(), var.detach())
        output = (input - _column(mean)) * _column((var + self.eps).rsqrt())
        if self.weight is not None and self.bias is not None:
            output = output * _column(self.weight) + _column(self.bias)
        return output

    def _track(self, input: Tensor, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        count = input[:, 0].numel() * self.data_group.size
        if count > 1:
            var = var * count / (count - 1)
        share = self._count_batch()
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)


def _sum(x: Tensor, group: Group) -> Tensor:
    """The sum over the ranks; each gets the gradients of all."""
    return copy_to_ranks(reduce_from_ranks(x, group), group)


def _mean(x: Tensor) -> Tensor:
    """The mean of each channel, 0 of an empty batch: [N, C, H, W] -> [C]."""
    return x.sum((0, 2, 3)) / max(x[:, 0].numel(), 1)


def _column(x: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return x[:, None, None]
