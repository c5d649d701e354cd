"""The plan of a load: which tensor goes into which slot."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like

from cupola.nn.class_checks import TorchModule
from cupola.nn.saving import EXTRA_STATE, own_state

# Module, name, prefix of its key, present tensor, new tensor.
Put = tuple[Any, str, str, Tensor, Any]
ABSENT: Final = object()
ORDINARY: Final = frozenset({Tensor, Parameter, Buffer})
swapping: Callable[[], bool] = torch.__future__.get_swap_module_params_on_conversion


class Plan:
    """Tensors to put into slots, and extra states to set."""

    def __init__(self, assign: bool) -> None:
        self.assign = assign
        self.puts: list[Put] = []
        self.extras: list[tuple[Any, Any]] = []
        self.only_ordinary = True

    def add(
        self,
        module: Any,
        found: dict[str, Any],
        prefix: str,
        missing: list[str],
        problems: list[str],
    ) -> None:
        """Plan the own tensors and the extra state of a module; take them out of what is found."""
        for name, target in own_state(module):
            value = found.pop(name, ABSENT)
            if value is ABSENT:
                missing.append(prefix + name)
            elif (
                type(target) in ORDINARY
                and type(value) in ORDINARY
                and target.shape == value.shape
                and target.is_meta == value.is_meta
            ):
                self.puts.append((module, name, prefix, target, value))
            else:
                self._add_special(module, name, prefix, target, value, problems)
        if type(module).set_extra_state is not TorchModule.set_extra_state:
            if EXTRA_STATE in found:
                self.extras.append((module, found.pop(EXTRA_STATE)))
            else:
                missing.append(prefix + EXTRA_STATE)

    def _add_special(
        self, module: Any, name: str, prefix: str, target: Tensor, value: Any, problems: list[str]
    ) -> None:
        self.only_ordinary = False
        key = prefix + name
        if not is_tensor_like(value):  # type: ignore[no-untyped-call]
            problems.append(
                f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like '
                f"object from checkpoint but received {type(value)}"
            )
            return
        if not is_lazy(target) and value.shape != target.shape:
            if target.dim() or value.shape != (1,):
                problems.append(
                    f"size mismatch for {key}: copying a param with shape {value.shape} from "
                    f"checkpoint, the shape in current model is {target.shape}."
                )
                return
            value = value[0]  # scalars were saved as [1] before torch 0.4
        if value.is_meta and not target.is_meta and not self.assign:
            problems.append(_failed(key, target, value, "Cannot copy out of meta tensor; no data!"))
        elif target.is_meta and not value.is_meta and not self.assign:
            warnings.warn(
                f"for {key}: copying from a non-meta parameter in the checkpoint to a meta "
                "parameter in the current model, which is a no-op. (Did you mean to pass "
                "`assign=True` to assign items in the state dictionary to their corresponding key "
                "in the module instead of copying them in place?)",
                stacklevel=7,
            )
        else:
            self.puts.append((module, name, prefix, target, value))

    def apply(self) -> list[str]:
        """Carry out the plan; return the errors."""
        with torch.no_grad():
            shared = self._shared() if self.assign else {}
            copied = self.only_ordinary and not self.assign and self._copy_at_once()
            outcomes = () if copied else [self._put(put, shared) for put in self.puts]
        for module, state in self.extras:
            module.set_extra_state(state)
        return [problem for problem in outcomes if problem]

    def _copy_at_once(self) -> bool:
        """Make all copies in one call; return whether it succeeded."""
        if swapping() or not self.puts:
            return False
        try:
            torch._foreach_copy_([put[3] for put in self.puts], [put[4] for put in self.puts])
        except Exception:
            return False  # copying one by one will name the tensor that fails
        return True

    def _put(self, put: Put, shared: dict[int, Any]) -> str | None:
        module, name, prefix, target, value = put
        try:
            if swapping():
                _swap(target, value, self.assign)
            elif self.assign:
                setattr(module, name, shared.get(id(target), _as_kind_of(target, value)))
            else:
                target.copy_(value)
        except Exception as error:
            return _failed(prefix + name, target, value, *error.args)
        return None

    def _shared(self) -> dict[int, Any]:
        """Map each target that several slots share to their common value, which is the last one."""
        counts = Counter(id(put[3]) for put in self.puts)
        return {
            id(put[3]): _as_kind_of(put[3], put[4]) for put in self.puts if counts[id(put[3])] > 1
        }

    def undo(self) -> list[Callable[[], Any]]:
        """Return functions that restore the present values."""
        if self.assign:
            return [partial(setattr, put[0], put[1], put[3]) for put in self.puts]
        return [partial(t.copy_, t.clone()) for t in (put[3].detach() for put in self.puts)]


def _as_kind_of(target: Tensor, value: Tensor) -> Tensor:
    if not isinstance(target, Parameter):
        return value
    wanted = target.requires_grad
    if isinstance(value, Parameter) and value.requires_grad == wanted:
        return value
    return Parameter(value.detach(), requires_grad=wanted)


def _swap(target: Any, value: Tensor, assign: bool) -> None:
    new = target.module_load(value, assign=assign)
    if new is value or new is target:
        raise RuntimeError(
            "module_load returned one of self or other, please .detach() the result if returning "
            "one of the inputs in module_load"
        )
    torch.utils.swap_tensors(target, _as_kind_of(target, new))  # type: ignore[no-untyped-call]


def _failed(key: str, target: Tensor, value: Tensor, *reason: Any) -> str:
    return (
        f'While {"swapping" if swapping() else "copying"} the parameter named "{key}", whose '
        f"dimensions in the model are {target.size()} and whose dimensions in the checkpoint are "
        f"{value.size()}, an exception occurred : {reason}."
    )
