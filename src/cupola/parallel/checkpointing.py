"""Activation checkpointing whose saved input is split over the tensor ranks.

The input of a block is the same on every rank, so each keeps 1/P of it and gathers the rest when
the backward pass recomputes the block (Megatron-LM mpu/random.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cupola.parallel.communicate import all_gather, own_slice
from cupola.parallel.groups import Group


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor], Tensor], group: Group, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.run, ctx.group, ctx.parameters = run, group, parameters
        ctx.shape, ctx.random = x.shape, torch.get_rng_state()
        flat = x.detach().flatten()
        ctx.whole = flat.numel() % group.size != 0
        ctx.save_for_backward(flat if ctx.whole else own_slice(flat, group, 0).clone())
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (part,) = ctx.saved_tensors
        flat = part if ctx.whole else all_gather(part, ctx.group, 0)
        x = flat.view(ctx.shape).requires_grad_()
        after = torch.get_rng_state()
        torch.set_rng_state(ctx.random)  # the same dropout as in the forward pass
        with torch.enable_grad():
            y = ctx.run(x)
        torch.set_rng_state(after)
        wanted = [x, *(p for p in ctx.parameters if p.requires_grad)]
        gradients = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True))
        grad_x = next(gradients)
        rest = [next(gradients) if p.requires_grad else None for p in ctx.parameters]
        return None, None, grad_x, *rest


def checkpoint(
    run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor], group: Group
) -> Tensor:
    """`run(x)`, of which only 1/P of `x` is kept for the backward pass.

    `parameters` are those that `run` uses; random numbers repeat in the second run.
    """
    return _Checkpoint.apply(run, group, x, *parameters)  # type: ignore[no-untyped-call]
