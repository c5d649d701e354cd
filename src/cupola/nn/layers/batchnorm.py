"""Batch and instance normalization with running statistics. Source: torch.nn.modules.batchnorm.

Letters: N batch, C channels (num_features); the other axes are spatial.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules import _functions

from cupola.nn import init
from cupola.nn.layers.factory import empty
from cupola.nn.module import Module


class NormBase(Module):
    """Weights [C], and running mean and variance [C] if they are tracked."""

    _version = 2  # version 1 did not save num_batches_tracked

    weight: Parameter | None
    bias: Parameter | None
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
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            values = empty(num_features, device=device, dtype=dtype) if wanted else None
            self.register_parameter(name, values)
        self._register_statistics(device, dtype)
        self.reset_parameters()

    def _register_statistics(self, device: torch.types.Device, dtype: torch.dtype | None) -> None:
        mean = var = count = None
        if self.track_running_stats:
            mean = torch.zeros(self.num_features, device=device, dtype=dtype)
            var = torch.ones(self.num_features, device=device, dtype=dtype)
            count = torch.tensor(0, dtype=torch.long, device=device)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Set the mean to zero, the variance to one, the count to zero."""
        if self.track_running_stats:
            for buffer, value in (
                (self.running_mean, 0),
                (self.running_var, 1),
                (self.num_batches_tracked, 0),
            ):
                assert buffer is not None
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """Set weight to one and bias to zero, and forget the statistics."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_input_dim(self, input: Tensor) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )

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


class BatchNorm(NormBase):
    """Normalize each channel over the batch and space (Ioffe and Szegedy 2015).

    In training the batch's own statistics are used, and the running ones follow with
    ``momentum`` (None: plain average over all batches). In evaluation the running ones are used.
    """

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
        """Count a training batch; return the share of it in the running statistics."""
        share = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        return share


class BatchNorm1d(BatchNorm):
    """:class:`BatchNorm` over [N, C] or [N, C, L]."""

    def _check_input_dim(self, input: Tensor) -> None:
        require_dim(input, 2, 3)


class BatchNorm2d(BatchNorm):
    """:class:`BatchNorm` over [N, C, H, W]."""

    def _check_input_dim(self, input: Tensor) -> None:
        require_dim(input, 4)


class BatchNorm3d(BatchNorm):
    """:class:`BatchNorm` over [N, C, D, H, W]."""

    def _check_input_dim(self, input: Tensor) -> None:
        require_dim(input, 5)


class SyncBatchNorm(BatchNorm):
    """:class:`BatchNorm` over the batches of all processes of a group, on GPUs.

    In evaluation, and with one process, it is the ordinary one.
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
        """[N, C, *] -> the same; ValueError for tensors that are on no GPU."""
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
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """Return the tree with its batch norms replaced; weights and statistics are shared."""
        result = module
        if isinstance(module, BatchNorm):
            result = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
                bias=module.bias is not None,
            )
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(result, name, getattr(module, name))
            result.training = module.training
        for name, child in module.named_children():
            result.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return result


class FrozenBatchNorm2d(Module):
    """Batch norm whose weights and statistics [C] are buffers and never change.

    Source: torchvision.ops.FrozenBatchNorm2d, as DETR's backbone uses it.
    """

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


class InstanceNorm(NormBase):
    """Normalize each channel of each sample over space (Ulyanov et al. 2017)."""

    spatial_dims: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.types.Device = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )

    def _check_input_dim(self, input: Tensor) -> None:
        require_dim(input, self.spatial_dims + 1, self.spatial_dims + 2)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, *] or [C, *] -> the same."""
        self._check_input_dim(input)
        batched = input.dim() == self.spatial_dims + 2
        if input.shape[-self.spatial_dims - 1] != self.num_features and self.affine:
            raise ValueError(
                f"expected input's size at dim={1 if batched else 0} to match num_features "
                f"({self.num_features}), but got: {input.shape[-self.spatial_dims - 1]}."
            )
        output = F.instance_norm(
            input if batched else input.unsqueeze(0),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return output if batched else output.squeeze(0)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Before version 2 statistics were saved even where they are not tracked.
        if local_metadata.get("version") is None and not self.track_running_stats:
            names = ("running_mean", "running_var")
            keys = [prefix + name for name in names if prefix + name in state_dict]
            if keys:
                listed = " and ".join(f'"{key}"' for key in keys)
                error_msgs.append(
                    f"Unexpected running stats buffer(s) {listed} for {type(self).__name__} with "
                    "track_running_stats=False. If state_dict is a checkpoint saved before 0.4.0, "
                    "this may be expected because it does not track running stats by default "
                    "since 0.4.0. Please remove these keys from the state_dict."
                )
                for key in keys:
                    state_dict.pop(key)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


class InstanceNorm1d(InstanceNorm):
    """:class:`InstanceNorm` over [N, C, L] or [C, L]."""

    spatial_dims = 1


class InstanceNorm2d(InstanceNorm):
    """:class:`InstanceNorm` over [N, C, H, W] or [C, H, W]."""

    spatial_dims = 2


class InstanceNorm3d(InstanceNorm):
    """:class:`InstanceNorm` over [N, C, D, H, W] or [C, D, H, W]."""

    spatial_dims = 3


def require_dim(input: Tensor, *allowed: int) -> None:
    """Raise ValueError if the input has another number of dimensions."""
    if input.dim() not in allowed:
        wanted = " or ".join(f"{n}D" for n in allowed)
        raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")
