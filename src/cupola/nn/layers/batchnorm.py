"""Batch normalization with running statistics. Source: torch.nn.modules.batchnorm.

Letters: N batch, C channels (num_features); the other axes are spatial.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import _functions

from cupola.nn.layers.norm import AffineNorm
from cupola.nn.module import Module
from cupola.nn.traversal import AnyModule


class BatchNorm(AffineNorm):
    """Normalize each channel over the batch and space (Ioffe and Szegedy 2015).

    In training it uses the statistics of the batch and updates the running ones with ``momentum``
    (None: the plain average over all batches). In evaluation it uses the running ones.
    """

    _version = 2  # version 1 did not save num_batches_tracked
    input_dims: ClassVar[tuple[int, ...]]  # accepted numbers of dimensions

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._allocate(affine, bias, num_features, device=device, dtype=dtype)
        mean = var = count = None
        if track_running_stats:
            mean = torch.zeros(num_features, device=device, dtype=dtype)
            var = torch.ones(num_features, device=device, dtype=dtype)
            count = torch.zeros((), dtype=torch.long, device=device)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the mean to zero, the variance to one, the count to zero."""
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = getattr(self, name)
            if buffer is not None and not buffer.is_meta:
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """Set weight to one and bias to zero, and reset the running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self.input_dims:
            wanted = " or ".join(f"{n}D" for n in self.input_dims)
            raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, *] -> the same."""
        self._check_input_dim(input)
        tracked = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self._use_batch_statistics(),
            self._count_batch(),
            self.eps,
        )

    def _use_batch_statistics(self) -> bool:
        return self.training or (self.running_mean is None and self.running_var is None)

    def _count_batch(self) -> float:
        """Count a training batch; return its weight in the running statistics."""
        weight = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                weight = 1.0 / float(self.num_batches_tracked)
        return weight

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        key = prefix + "num_batches_tracked"
        version = local_metadata.get("version")
        if (version is None or version < 2) and self.track_running_stats:
            own = self.num_batches_tracked
            if key not in state_dict and own is not None:
                state_dict[key] = own if not own.is_meta else torch.tensor(0, dtype=torch.long)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class BatchNorm1d(BatchNorm):
    """:class:`BatchNorm` over [N, C] or [N, C, L]."""

    input_dims = (2, 3)


class BatchNorm2d(BatchNorm):
    """:class:`BatchNorm` over [N, C, H, W]."""

    input_dims = (4,)


class SyncBatchNorm(BatchNorm):
    """:class:`BatchNorm` over the batches of all processes of a group, on GPUs.

    In evaluation, and with a single process, it is the ordinary one.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, *] -> the same; ValueError for a tensor on the CPU."""
        group = self.process_group or dist.group.WORLD if dist.is_initialized() else None
        if not self.training or group is None or dist.get_world_size(group) == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if input.device.type == "cpu":
            raise ValueError("SyncBatchNorm expected input tensor to be on GPU or XPU")
        output: Tensor = _functions.SyncBatchNorm.apply(  # type: ignore[no-untyped-call]
            input,
            self.weight,
            self.bias,
            self.running_mean if self.track_running_stats else None,
            self.running_var if self.track_running_stats else None,
            self.eps,
            self._count_batch(),
            group,
            dist.get_world_size(group),
        )
        return output

    @classmethod
    def convert_sync_batchnorm(cls, module: AnyModule, process_group: Any = None) -> AnyModule:
        """Return the tree with its batch norms replaced; weights and statistics are shared."""
        if not isinstance(module, Module):
            convert: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm
            return convert(module, process_group)
        result: AnyModule = module
        if isinstance(module, BatchNorm):
            statistics = module.momentum, module.affine, module.track_running_stats
            settings = module.num_features, module.eps, *statistics, process_group
            result = cls(*settings, bias=module.bias is not None)
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(result, name, getattr(module, name))
            result.training = module.training
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


class FrozenBatchNorm2d(Module):
    """Batch norm whose weights and statistics [C] are buffers that never change.
    Source: torchvision.ops.FrozenBatchNorm2d, as used in DETR's backbone."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # [C]
        shift = self.bias - self.running_mean * scale  # [C]
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # saved by ordinary batch norms
        super()._load_from_state_dict(state_dict, prefix, *rest)
