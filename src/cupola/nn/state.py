"""Saving and loading: ``state_dict`` and ``load_state_dict``.

Loading plans first and applies afterwards: a state that does not fit changes nothing.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.modules.module import _IncompatibleKeys, _WrappedHook
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like
from torch.utils.hooks import RemovableHandle

from cupola.nn.hooks import Hook, Hooks, add_hook
from cupola.nn.store import BUFFER, PARAMETER
from cupola.nn.traversal import AnyModule, Traversal, child_slots

EXTRA_STATE: Final = "_extra_state"
ASSIGN: Final = "assign_to_params_buffers"
PLAN: Final = "cupola_plan"  # where a load carries its plan through the metadata

Step = Callable[[], str | None]


class State(Traversal, Hooks):
    """What is saved, under which keys, and how it comes back."""

    _version: int = 1

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Return an OrderedDict of path -> tensor: parameters and persistent buffers.

        ``_metadata`` on it maps each module's path to its ``version``.

        Args:
            destination: a dictionary to fill and return in place of a new one.
            prefix: put in front of every key.
            keep_vars: return the tensors themselves, not detached.
        """
        if args:
            warnings.warn(
                "Positional args are being deprecated, use kwargs instead.",
                FutureWarning,
                stacklevel=2,
            )
            given = (*args, *(destination, prefix, keep_vars)[len(args) :])
            destination, prefix, keep_vars = given
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        if self._hooked:
            for hook in self._state_dict_pre_hooks.values():
                hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, child in child_slots(self):
            if child is not None:
                child.state_dict(
                    destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
                )
        if self._hooked:
            destination = self._run_state_dict_hooks(destination, prefix, local_metadata)
        return destination

    def _run_state_dict_hooks(self, destination: Any, prefix: str, metadata: Any) -> Any:
        for hook in self._state_dict_hooks.values():
            result = hook(self, destination, prefix, metadata)
            if result is None:
                continue
            if getattr(hook, "_from_public_api", False):
                raise RuntimeError("state_dict post-hook must return None")
            destination = result
        return destination

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, value in self._own_state():
            destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not State.get_extra_state:
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def _own_state(self) -> list[tuple[str, Any]]:
        """Return (name, tensor) for what is saved of this module: parameters, then buffers."""
        values, kinds = self.__dict__, self._kinds.items()
        names = [name for name, kind in kinds if kind == PARAMETER]
        names += [name for name, kind in kinds if kind == BUFFER]
        return [(name, values[name]) for name in names if values[name] is not None]

    def get_extra_state(self) -> Any:
        """Return what should be saved besides tensors; override together with the setter."""
        raise RuntimeError("Module.get_extra_state() should never be called: it is not overridden")

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` returned."""
        raise RuntimeError("Module.set_extra_state() should never be called: it is not overridden")

    def register_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(module, prefix, keep_vars)`` before this module is saved."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(module, state_dict, prefix, local_metadata)``, which edits in place."""
        hook._from_public_api = True  # type: ignore[attr-defined]
        return add_hook(self._state_dict_hooks, hook)

    def _register_state_dict_hook(self, hook: Hook) -> RemovableHandle:
        if getattr(hook, "_from_public_api", False):
            raise RuntimeError(
                "Cannot register the same function as the state dict post hook that was "
                "previously registered via register_state_dict_post_hook"
            )
        return add_hook(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)`` before this module is loaded; it may edit what it gets."""
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(
        self, hook: Hook, with_module: bool = False
    ) -> RemovableHandle:
        wrapped = _WrappedHook(hook, self if with_module else None)  # type: ignore[arg-type]
        return add_hook(self._load_state_dict_pre_hooks, wrapped)

    def register_load_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Run ``hook(module, incompatible_keys)`` after loading; it may edit the key lists."""
        return add_hook(self._load_state_dict_post_hooks, hook)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copy tensors into the tree by key; return the missing and the unexpected keys.

        Args:
            state_dict: path -> tensor; never changed.
            strict: raise when keys are missing or unexpected.
            assign: use the given tensors themselves, without a copy. Dtype and device become
                theirs, ``requires_grad`` and ties stay.

        Raises:
            TypeError: the state is not dict-like.
            RuntimeError: keys or shapes do not fit; nothing has been changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        return _Loading(self, state_dict, strict, assign).run()

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
        """Load this module alone: what subclasses override to accept older states.

        Inside :meth:`load_state_dict` it only adds to the plan.
        """
        if self._hooked:
            for hook in self._load_state_dict_pre_hooks.values():
                hook(
                    state_dict,
                    prefix,
                    local_metadata,
                    strict,
                    missing_keys,
                    unexpected_keys,
                    error_msgs,
                )
        plan: list[Step] = local_metadata.get(PLAN, [])
        known = set()
        for name, target in self._own_state():
            key = prefix + name
            known.add(key)
            if key in state_dict:
                value, problem = _fit(key, target, state_dict[key])
                if problem:
                    error_msgs.append(problem)
                    continue
                if target.is_meta and not value.is_meta and not local_metadata.get(ASSIGN):
                    _warn_of_no_op(key)
                else:
                    plan.append(_Put(self, name, key, target, value, local_metadata))
            elif strict:
                missing_keys.append(key)
        self._load_extra_state(state_dict, prefix + EXTRA_STATE, strict, missing_keys, plan, known)
        if strict:
            unexpected_keys += _unexpected(self, state_dict, prefix, known)
        if PLAN not in local_metadata:
            error_msgs += [problem for step in plan if (problem := step())]

    def _load_extra_state(
        self,
        state_dict: dict[str, Any],
        key: str,
        strict: bool,
        missing_keys: list[str],
        plan: list[Step],
        known: set[str],
    ) -> None:
        if type(self).set_extra_state is State.set_extra_state:
            return
        known.add(key)
        if key in state_dict:
            extra = state_dict[key]
            plan.append(lambda: self.set_extra_state(extra))
        elif strict:
            missing_keys.append(key)


class _Put:
    """A planned change: a tensor into a slot. Calling it returns an error message or None."""

    def __init__(
        self,
        module: AnyModule,
        name: str,
        key: str,
        target: Tensor,
        value: Any,
        metadata: dict[str, Any],
    ) -> None:
        self.module, self.name, self.key = module, name, key
        self.target, self.value = target, value
        self.assign = metadata.get(ASSIGN, False)

    def __call__(self) -> str | None:
        swap = torch.__future__.get_swap_module_params_on_conversion()
        try:
            with torch.no_grad():
                if swap:
                    self._swap()
                elif self.assign:
                    setattr(self.module, self.name, self._as_target_kind(self.value))
                else:
                    self.target.copy_(self.value)
        except Exception as error:
            return (
                f'While {"swapping" if swap else "copying"} the parameter named "{self.key}", '
                f"whose dimensions in the model are {self.target.size()} and whose dimensions in "
                f"the checkpoint are {self.value.size()}, an exception occurred : {error.args}."
            )
        return None

    def _as_target_kind(self, value: Tensor) -> Tensor:
        if not isinstance(self.target, Parameter):
            return value
        wanted = self.target.requires_grad
        if isinstance(value, Parameter) and value.requires_grad == wanted:
            return value
        return Parameter(value.detach(), requires_grad=wanted)

    def _swap(self) -> None:
        new = self.target.module_load(self.value, assign=self.assign)
        if new is self.value or new is self.target:
            raise RuntimeError(
                "module_load returned one of self or other, please .detach() the result if "
                "returning one of the inputs in module_load"
            )
        torch.utils.swap_tensors(self.target, self._as_target_kind(new))

    def undo(self) -> Callable[[], Any]:
        """Return what puts the present value back."""
        if self.assign:
            return lambda: setattr(self.module, self.name, self.target)
        before = self.target.detach().clone()
        return lambda: self.target.detach().copy_(before)


class _Loading:
    """One ``load_state_dict``: plan the whole tree, check, apply."""

    def __init__(
        self, root: AnyModule, state: Mapping[str, Any], strict: bool, assign: bool
    ) -> None:
        self.root, self.strict, self.assign = root, strict, assign
        self.metadata = getattr(state, "_metadata", None) or {}
        self.state: OrderedDict[str, Any] = OrderedDict(state)
        self.state._metadata = self.metadata  # type: ignore[attr-defined]
        self.keys = _IncompatibleKeys([], [])
        self.problems: list[str] = []
        self.plan: list[Step] = []
        self.hooked: list[AnyModule] = []

    def run(self) -> Any:
        self._visit(self.root, self.state, "")
        undo: list[Callable[[], Any]] = []
        if self._misfits():
            # Only a post-hook can still excuse missing and unexpected keys, and it may look at
            # the loaded tensors: apply, ask, and take it back if the keys still do not fit.
            if self.problems or not self.hooked:
                self._fail()
            undo = [step.undo() for step in self.plan if isinstance(step, _Put)]
        self._apply()
        for module in self.hooked:
            self._run_post_hooks(module)
        if self._misfits():
            for restore in undo:
                restore()
            self._fail()
        return self.keys

    def _misfits(self) -> bool:
        return bool(self.problems or (self.strict and (self.keys[0] or self.keys[1])))

    def _visit(self, module: AnyModule, state: dict[str, Any], prefix: str) -> None:
        metadata = dict(self.metadata.get(prefix[:-1], {}))
        metadata[PLAN] = self.plan
        if self.assign:
            metadata[ASSIGN] = True
        missing, unexpected = self.keys
        module._load_from_state_dict(
            state, prefix, metadata, True, missing, unexpected, self.problems
        )
        children = [(name, child) for name, child in child_slots(module) if child is not None]
        if children:
            parts = _partition(state, prefix)
            for name, child in children:
                self._visit(child, parts.get(name, {}), f"{prefix}{name}.")
        if getattr(module, "_hooked", True) and module._load_state_dict_post_hooks:
            self.hooked.append(module)

    def _apply(self) -> None:
        if self.assign:
            _share_ties([step for step in self.plan if isinstance(step, _Put)])
        self.problems += [problem for step in self.plan if (problem := step())]

    def _run_post_hooks(self, module: AnyModule) -> None:
        for hook in module._load_state_dict_post_hooks.values():
            if hook(module, self.keys) is not None:
                raise AssertionError(
                    "Hooks registered with ``register_load_state_dict_post_hook`` are not "
                    "expected to return new values, if incompatible_keys need to be modified, "
                    "it should be done inplace."
                )

    def _fail(self) -> None:
        lines = list(self.problems)
        if self.strict:
            for what, keys in zip(("Unexpected", "Missing"), reversed(self.keys), strict=True):
                if keys:
                    listed = ", ".join(f'"{key}"' for key in keys)
                    lines.insert(0, f"{what} key(s) in state_dict: {listed}. ")
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(self.root).__name__}:\n\t"
            + "\n\t".join(lines)
        )


def _fit(key: str, target: Tensor, value: Any) -> tuple[Any, str | None]:
    """Return the value as the target can take it, and what is wrong with it or None."""
    if not is_tensor_like(value):
        return value, (
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like '
            f"object from checkpoint but received {type(value)}"
        )
    if is_lazy(target):
        return value, None
    if target.dim() == 0 and value.dim() == 1 and value.shape[0] == 1:
        value = value[0]  # scalars were saved as [1] before torch 0.4
    if value.shape != target.shape:
        return value, (
            f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
            f"the shape in current model is {target.shape}."
        )
    return value, None


def _unexpected(
    module: AnyModule, state: Mapping[str, Any], prefix: str, known: set[str]
) -> list[str]:
    children = {name for name, _ in child_slots(module)}
    start = len(prefix)
    found = []
    for key in state:
        if key not in known and key.startswith(prefix):
            first, dot, _ = key[start:].partition(".")
            if not dot or first not in children:
                found.append(key)
    return found


def _partition(state: Mapping[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    """Split a state by the child that each key names."""
    parts: dict[str, dict[str, Any]] = {}
    start = len(prefix)
    for key, value in state.items():
        if key.startswith(prefix):
            child, dot, _ = key[start:].partition(".")
            if dot:
                parts.setdefault(child, {})[key] = value
    return parts


def _share_ties(steps: list[_Put]) -> None:
    """Let slots that hold one parameter now be given one parameter; the last value wins."""
    groups: dict[int, list[_Put]] = {}
    for step in steps:
        groups.setdefault(id(step.target), []).append(step)
    for group in groups.values():
        if len(group) > 1:
            shared = group[-1]._as_target_kind(group[-1].value)
            for step in group:
                step.value = shared


def _warn_of_no_op(key: str) -> None:
    warnings.warn(
        f"for {key}: copying from a non-meta parameter in the checkpoint to a meta parameter in "
        "the current model, which is a no-op. (Did you mean to pass `assign=True` to assign items "
        "in the state dictionary to their corresponding key in the module instead of copying them "
        "in place?)",
        stacklevel=6,
    )
