"""One optimizer step: forward in the chosen precision, backward, clip, update."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from cupola import nn
from cupola.errors import BuildError
from cupola.parallel import average_gradients, clip_gradients
from cupola.registry import without_scope
from cupola.train.distributed import TrainingRanks


class Trainable(Protocol):
    """What the training loop needs from a model besides being a Module."""

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Scalars by name; those with "loss" in the name are summed."""

    def predict(self, batch: dict[str, Any]) -> list[Any]:
        """One prediction per sample."""


PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def to_device(value: Any, device: torch.device) -> Any:
    """Moves every tensor in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a NamedTuple
        return type(value)(*(to_device(each, device) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(each, device) for each in value)
    return value


def use_channels_last(model: nn.Module) -> None:
    """Stores convolution weights [O, I, h, w] as [O, h, w, I], the layout of their outputs too."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def total_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of all entries whose name contains "loss"; the others are only logged."""
    parts = [value for name, value in losses.items() if "loss" in name]
    if not parts:
        raise BuildError(
            f"the model's loss() returned no entry with 'loss' in its name: {sorted(losses)}"
        )
    return torch.stack([part.float() for part in parts]).sum()


class Stepper:
    """Applies an `optim_wrapper` config to a model: accumulation, precision, clipping.

    Keys as in MMEngine: accumulative_counts, clip_grad=dict(max_norm, norm_type) or
    dict(type="value", clip_value), and with type="AmpOptimWrapper" dtype="bfloat16".
    """

    def __init__(
        self, model: Trainable, optimizer: Optimizer, cfg: Mapping[str, Any], ranks: TrainingRanks
    ) -> None:
        self._model, self._optimizer, self._ranks = model, optimizer, ranks
        self.pieces = int(cfg.get("accumulative_counts", 1))
        self._clip = dict(cfg.get("clip_grad") or {})
        self._by_value = self._clip.pop("type", "norm") == "value"
        allowed = ("clip_value",) if self._by_value else ("max_norm", "norm_type")
        unknown = [key for key in self._clip if key not in (*allowed, "error_if_nonfinite")]
        if unknown or (self._clip and allowed[0] not in self._clip):
            raise BuildError(
                f"optim_wrapper.clip_grad: expected {' and '.join(allowed)}, got {self._clip!r:.80}"
            )
        self._dtype: torch.dtype | None = None
        if without_scope(cfg).get("type") == "AmpOptimWrapper":
            name = cfg.get("dtype", "bfloat16")
            if name not in PRECISIONS:
                raise BuildError(f"optim_wrapper.dtype: {name!r} is not one of {[*PRECISIONS]}")
            self._dtype = PRECISIONS[name]
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Gradients of split parameters are averaged by the backward pass.
        self._whole = [p for p in self._parameters if not hasattr(p, "full_tensor")]
        self._device = self._parameters[0].device
        # float16 gradients need scaling; bfloat16 has float32's range
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype == torch.float16)

    def _precision(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def step(
        self, batches: Iterator[dict[str, Any]], count: int | None = None
    ) -> dict[str, Tensor]:
        """Consumes `accumulative_counts` batches; returns the mean losses and the gradient norm.

        count: of another number of batches, such as those that are left at the end of a run.
        """
        pieces = count or self.pieces
        self._optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for _ in range(pieces):
            batch = to_device(next(batches), self._device)
            with self._precision():
                losses = self._model.loss(batch)
            loss = total_loss(losses)
            torch.autograd.backward(self._scaler.scale(loss / pieces))
            for name, value in {**losses, "loss": loss}.items():
                part = value.detach().float() / pieces
                means[name] = means[name] + part if name in means else part
        average_gradients(self._whole, self._ranks.data)
        self._scaler.unscale_(self._optimizer)
        if self._clip:
            means["grad_norm"] = self._clip_norm()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return means

    def _clip_norm(self) -> Tensor:
        if self._by_value:
            torch.nn.utils.clip_grad_value_(self._parameters, self._clip["clip_value"])
            grads = [each.grad for each in self._parameters if each.grad is not None]
            return torch.nn.utils.get_total_norm(grads)
        if self._ranks.model.size > 1:
            return clip_gradients(
                cast(nn.Module, self._model), group=self._ranks.model, **self._clip
            )
        norm: Any = torch.nn.utils.clip_grad_norm_(self._parameters, **self._clip)
        return cast(Tensor, norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def state_dict(self) -> dict[str, Any]:
        """The gradient scaler's state, empty except for float16."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        if state:
            self._scaler.load_state_dict(state)
