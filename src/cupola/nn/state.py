"""Saving and loading: ``state_dict`` and ``load_state_dict``.

Loading plans first and applies afterwards: a state that does not fit changes nothing.
"""

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter
from torch.nn.modules.module import _IncompatibleKeys, _WrappedHook
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like
from torch.utils.hooks import RemovableHandle

from cupola.nn.hooks import Hook, Hooks, add_hook
from cupola.nn.store import BUFFER, MODULE, PARAMETER
from cupola.nn.traversal import AnyModule, Traversal, child_slots

EXTRA_STATE: Final = "_extra_state"
ASSIGN: Final = "assign_to_params_buffers"
PLAN: Final = "cupola_plan"  # where a load carries its plan through the metadata

# A tensor into a slot: module, name, key, present tensor, new tensor, assign.
Put = tuple[AnyModule, str, str, Tensor, Any, bool]
ORDINARY: Final = frozenset({Tensor, Parameter, Buffer})


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
        metadata = getattr(destination, "_metadata", None)
        return _save(self, destination, metadata, prefix, keep_vars)

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
        """Save this module alone; what subclasses override to save more."""
        for name, value in _own_state(self):
            destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not _NO_EXTRA_STATE:
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

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
        plan = local_metadata.get(PLAN) or Plan()
        assign = local_metadata.get(ASSIGN, False)
        found = 0
        for name, target in _own_state(self):
            key = prefix + name
            if key not in state_dict:
                missing_keys += [key] if strict else []
                continue
            found += 1
            value = state_dict[key]
            problem = None
            if is_lazy(target) or not isinstance(value, Tensor) or value.shape != target.shape:
                value, problem = _fit(key, target, value)
            if problem:
                error_msgs.append(problem)
            elif not assign and target.is_meta != value.is_meta:
                error_msgs += _meta_on_one_side(key, target, value)
            else:
                plan.puts.append((self, name, key, target, value, assign))
        if type(self).set_extra_state is not State.set_extra_state:
            key = prefix + EXTRA_STATE
            if key in state_dict:
                found += 1
                plan.extras.append((self, state_dict[key]))
            else:
                missing_keys += [key] if strict else []
        if strict and found < len(state_dict):
            unexpected_keys += _unexpected(self, state_dict, prefix)
        if PLAN not in local_metadata:
            error_msgs += plan.apply()


_NO_EXTRA_STATE = State.get_extra_state


def _own_state(module: State) -> list[tuple[str, Any]]:
    """Return (name, tensor) for what is saved of a module: parameters, then buffers."""
    values, parameters, buffers = module.__dict__, [], []
    for name, kind in module._kinds.items():
        value = values[name]
        if value is None:
            continue
        if kind == PARAMETER:
            parameters.append((name, value))
        elif kind == BUFFER:
            buffers.append((name, value))
    return parameters + buffers if buffers else parameters


_PLAIN_SAVE = State._save_to_state_dict
_PLAIN_STATE_DICT = State.state_dict


def _save(module: State, destination: Any, metadata: Any, prefix: str, keep_vars: bool) -> Any:
    """Save a module and all below it. Those that save in the plain way are saved inline here."""
    cls, values = type(module), module.__dict__
    local_metadata = {"version": module._version}
    if metadata is not None:
        metadata[prefix[:-1]] = local_metadata
    hooked = "_hooked" in values
    if hooked:
        for hook in module._state_dict_pre_hooks.values():
            hook(module, prefix, keep_vars)
    plain = cls._save_to_state_dict is _PLAIN_SAVE and cls.get_extra_state is _NO_EXTRA_STATE
    buffers, children = [], []
    for name, kind in values["_kinds"].items():
        value = values[name]
        if value is None:
            continue
        if kind == PARAMETER:
            if plain:
                destination[prefix + name] = value if keep_vars else value.detach()
        elif kind == MODULE:
            children.append((name, value))
        elif kind == BUFFER:
            buffers.append((name, value))
    if not plain:
        module._save_to_state_dict(destination, prefix, keep_vars)
    else:
        for name, value in buffers:
            destination[prefix + name] = value if keep_vars else value.detach()
    for name, child in children:
        path = f"{prefix}{name}."
        if type(child).state_dict is _PLAIN_STATE_DICT:
            _save(child, destination, metadata, path, keep_vars)
        else:  # a torch module, or one that saves in its own way
            child.state_dict(destination=destination, prefix=path, keep_vars=keep_vars)
    if hooked:
        destination = module._run_state_dict_hooks(destination, prefix, local_metadata)
    return destination


class Plan:
    """What a load is going to do: tensors into slots, and extra states back to their modules."""

    def __init__(self) -> None:
        self.puts: list[Put] = []
        self.extras: list[tuple[State, Any]] = []

    def apply(self) -> list[str]:
        """Do it all; return what went wrong."""
        problems: list[str] = []
        if self.puts and not _copy_at_once(self.puts):
            shared = _tied_values(self.puts)
            problems += [problem for put in self.puts if (problem := _put(put, shared))]
        for module, state in self.extras:
            module.set_extra_state(state)
        return problems

    def undo(self) -> list[Callable[[], Any]]:
        """Return what puts the present values back."""
        return [_keep_value(put) for put in self.puts]


def _put(put: Put, shared: dict[int, Any]) -> str | None:
    """Make one change; return an error message or None."""
    module, name, key, target, value, assign = put
    swap = torch.__future__.get_swap_module_params_on_conversion()
    try:
        with torch.no_grad():
            if swap:
                _swap(target, value, assign)
            elif assign:
                setattr(module, name, shared.get(id(target), _as_kind_of(target, value)))
            else:
                target.copy_(value)
    except Exception as error:
        return _failed_copy(key, target, value, error.args, "swapping" if swap else "copying")
    return None


def _copy_at_once(puts: list[Put]) -> bool:
    """Make all copies in one call, if they are ordinary ones; tell whether that was done."""
    if puts[0][5] or torch.__future__.get_swap_module_params_on_conversion():
        return False
    targets, values = [put[3] for put in puts], [put[4] for put in puts]
    if not {type(tensor) for tensor in targets + values} <= ORDINARY:
        return False
    try:
        with torch.no_grad():
            torch._foreach_copy_(targets, values)
    except Exception:
        return False  # one by one then: that names the tensor which does not go
    return True


def _tied_values(puts: list[Put]) -> dict[int, Any]:
    """Map each target that several slots share to the one value that they all get: the last."""
    counts = Counter(id(put[3]) for put in puts)
    return {id(put[3]): _as_kind_of(put[3], put[4]) for put in puts if counts[id(put[3])] > 1}


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


def _keep_value(put: Put) -> Callable[[], Any]:
    module, name, _, target, _, assign = put
    if assign:
        return partial(setattr, module, name, target)
    return partial(target.detach().copy_, target.detach().clone())


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
        self.plan = Plan()
        self.hooked: list[AnyModule] = []

    def run(self) -> Any:
        self._visit(self.root, self.state, "")
        undo: list[Callable[[], Any]] = []
        if self._misfits():
            # Only a post-hook can still excuse missing and unexpected keys, and it may look at
            # the loaded tensors: apply, ask, and take it back if the keys still do not fit.
            if self.problems or not self.hooked:
                self._fail()
            undo = self.plan.undo()
        self.problems += self.plan.apply()
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
        metadata = {**self.metadata.get(prefix[:-1], {}), PLAN: self.plan}
        if self.assign:
            metadata[ASSIGN] = True
        missing, unexpected = self.keys
        module._load_from_state_dict(
            state, prefix, metadata, True, missing, unexpected, self.problems
        )
        children = child_slots(module)
        if children:
            parts = _partition(state, prefix)
            for name, child in children:
                if child is not None:
                    self._visit(child, parts.get(name, {}), f"{prefix}{name}.")
        if getattr(module, "_hooked", True) and module._load_state_dict_post_hooks:
            self.hooked.append(module)

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
    if not is_tensor_like(value):  # type: ignore[no-untyped-call]
        return value, (
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like '
            f"object from checkpoint but received {type(value)}"
        )
    if is_lazy(target) or value.shape == target.shape:
        return value, None
    if target.dim() == 0 and value.shape == (1,):
        value = value[0]  # scalars were saved as [1] before torch 0.4
    else:
        return value, (
            f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
            f"the shape in current model is {target.shape}."
        )
    return value, None


def _unexpected(module: State, state: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the keys under the prefix that name nothing of this module and no child."""
    children = {name for name, _ in child_slots(module)}
    known = {name for name, _ in _own_state(module)}
    if type(module).set_extra_state is not State.set_extra_state:
        known.add(EXTRA_STATE)
    found = []
    for key in state:
        if key.startswith(prefix):
            first, dot, _ = key[len(prefix) :].partition(".")
            if first not in (children if dot else known):
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


def _meta_on_one_side(key: str, target: Tensor, value: Tensor) -> list[str]:
    """Return the error for a copy out of a meta tensor; a copy into one only gets a warning."""
    if value.is_meta:
        return [_failed_copy(key, target, value, ("Cannot copy out of meta tensor; no data!",))]
    warnings.warn(
        f"for {key}: copying from a non-meta parameter in the checkpoint to a meta parameter in "
        "the current model, which is a no-op. (Did you mean to pass `assign=True` to assign items "
        "in the state dictionary to their corresponding key in the module instead of copying them "
        "in place?)",
        stacklevel=6,
    )
    return []


def _failed_copy(
    key: str, target: Tensor, value: Tensor, reason: tuple[Any, ...], action: str = "copying"
) -> str:
    return (
        f'While {action} the parameter named "{key}", whose dimensions in the model are '
        f"{target.size()} and whose dimensions in the checkpoint are {value.size()}, an exception "
        f"occurred : {reason}."
    )
