"""ColumnParallelLinear and RowParallelLinear: one matrix, split over the tensor ranks.

Letters: B batch, S sequence, I inputs, O outputs, P ranks. A column-parallel layer holds rows
[O/P, I] of the weight (its outputs are split), a row-parallel one columns [O, I/P] (its inputs
are split). One after the other they need a single all-reduce (arXiv 1909.08053, section 3).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.nn.meta import parameter_device
from cupola.parallel.communicate import finish, own_slice, start_all_reduce
from cupola.parallel.groups import Group, alone
from cupola.parallel.independent import InputParts, sum_in_pairs
from cupola.parallel.linear import linear
from cupola.parallel.mappings import (
    gather_from_ranks,
    gather_sequence,
    reduce_from_ranks,
    scatter_sequence_sum,
    scatter_to_ranks,
)

Init = Callable[[Tensor], Any]
Stored = Callable[[Tensor, Tensor | None], Tensor]  # see storage.py


def normal(std: float) -> Init:
    """An initializer that draws from N(0, std)."""
    return lambda tensor: nn.init.normal_(tensor, 0.0, std)


class _CopiedLinear(torch.autograd.Function):
    """x W^T with x replicated: backward sums dX over the ranks while it computes dW."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: Group) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x, work = start_all_reduce(grad @ weight, ctx.group)
        grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2)  # [O/P, I], while dX is summed
        finish(work, ctx.group)
        return grad_x, grad_weight, None


def sliced_parameter(
    shape: tuple[int, ...], dim: int, group: Group, init: Init, **factory: Any
) -> nn.Parameter:
    """This rank's slice along `dim` of a master weight that all ranks draw identically.

    The ranks must share the state of the default random generator; then p ranks hold exactly the
    slices of what one rank would hold.
    """
    master = torch.empty(shape, device=parameter_device(factory.pop("device", None)), **factory)
    with torch.no_grad():
        init(master)
        if group.size == 1:
            return nn.Parameter(master)
        part = own_slice(master, group, dim)
        return nn.Parameter(
            torch.empty(part.shape, device=part.device, dtype=part.dtype).copy_(part)
        )


class ParallelLinear(nn.Module):
    """What both layers are: bridged, a torch.nn.Linear where one rank holds the whole matrix.

    Tools that adapt linear layers, such as PEFT, then find it; they know nothing of ranks.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, group: Group | None, skip_bias_add: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features  # over all ranks
        self.group, self.skip_bias_add = alone(group), skip_bias_add
        self.stored: Stored | None = None  # the weight as an optimization keeps it
        if self.group.size == 1 and not skip_bias_add:
            self._torch_layer = torch.nn.Linear

    def extra_repr(self) -> str:
        bias, ranks = self.bias is not None, self.group.size
        return f"{self.in_features}, {self.out_features}, bias={bias}, ranks={ranks}"


class ColumnParallelLinear(ParallelLinear):
    """y = x W^T + b with the outputs split: [..., I] -> [..., O/P], or [..., O] gathered.

    With `skip_bias_add` the result is the pair (y, b), so that the caller can fuse the addition.
    With `sequence_parallel` the input is this rank's slice [B, S/P, I] of the sequence.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        init: Init = nn.init.xavier_normal_,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, group, skip_bias_add)
        self.gather_output = gather_output
        self.sequence_parallel = sequence_parallel
        self.shard_dims = {"weight": 0, "bias": 0}
        self.weight = sliced_parameter(
            (out_features, in_features), 0, self.group, init, device=device, dtype=dtype
        )
        share = self.group.share(out_features, "out_features")
        self.bias = nn.Parameter(torch.zeros(share, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Any:
        bias = None if self.skip_bias_add else self.bias
        if self.sequence_parallel:
            y = linear(gather_sequence(x, self.group), self.weight, bias)
        elif self.stored is not None:
            y = self.stored(x, bias)
        elif self.group.size == 1 or not torch.is_grad_enabled():
            y = linear(x, self.weight, bias)
        else:
            y = _CopiedLinear.apply(x, self.weight, self.group)  # type: ignore[no-untyped-call]
            y = y if bias is None else y + bias
        if self.gather_output:
            y = gather_from_ranks(y, self.group)
        return (y, self.bias) if self.skip_bias_add else y


class RowParallelLinear(ParallelLinear):
    """y = x W^T + b with the inputs split: [..., I/P] (or [..., I], split here) -> [..., O].

    The bias is whole on every rank and is added after the all-reduce, once. With
    `sequence_parallel` the result is this rank's slice [B, S/P, O] of the sequence.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        init: Init = nn.init.xavier_normal_,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, group, skip_bias_add)
        self.input_is_parallel = input_is_parallel
        self.sequence_parallel = sequence_parallel
        self.parts: InputParts | None = None  # the weight where sums have a fixed order
        self.shard_dims = {"weight": 1}
        self.weight = sliced_parameter(
            (out_features, in_features), 1, self.group, init, device=device, dtype=dtype
        )
        zeros = torch.zeros(out_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(zeros) if bias else None

    def forward(self, x: Tensor) -> Any:
        x = x if self.input_is_parallel else scatter_to_ranks(x, self.group)
        if self.parts is not None:
            y = sum_in_pairs(self.parts(x), self.group)
            y = y if self.skip_bias_add or self.bias is None else y + self.bias
        elif self.group.size == 1:
            y = self._product(x, None if self.skip_bias_add else self.bias)
        else:
            partial = self._product(x)
            leave = scatter_sequence_sum if self.sequence_parallel else reduce_from_ranks
            y = leave(partial, self.group)
            y = y if self.skip_bias_add or self.bias is None else y + self.bias
        return (y, self.bias) if self.skip_bias_add else y

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, bias) if self.stored is None else self.stored(x, bias)
