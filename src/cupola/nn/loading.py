"""Loading: ``load_state_dict`` plans the whole tree and checks the plan, then changes the tree."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy

from cupola.nn.hooks import HOOKED
from cupola.nn.members import table_of
from cupola.nn.plan import Plan
from cupola.nn.saving import EXTRA_STATE, Saving, own_state
from cupola.nn.traversal import AnyModule, child_slots

ASSIGN: Final = "assign_to_params_buffers"
PLAN: Final = "cupola_plan"  # key in a module's metadata that holds the plan


class Loading(Saving):
    """Restores what :class:`Saving` saved."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copy tensors into the tree by key; return the missing and unexpected keys.

        Args:
            state_dict: path -> tensor; it is not changed.
            strict: raise if keys are missing or unexpected.
            assign: use the given tensors themselves instead of copying them. Dtype and device
                become theirs; ``requires_grad`` and ties stay.

        Raises:
            TypeError: the state is not dict-like.
            RuntimeError: keys or shapes do not match; the module is unchanged.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        return _Load(self, state_dict, strict, assign).run()

    def set_extra_state(self, state: Any) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        raise RuntimeError("Module.set_extra_state() should never be called: it is not overridden")

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
        """Load this module without its children. Subclasses override it to accept older states.

        Within :meth:`load_state_dict` it only adds to the plan.
        """
        lists = missing_keys, unexpected_keys, error_msgs
        for hook in table_of(self, "_load_state_dict_pre_hooks").values():
            hook(state_dict, prefix, local_metadata, strict, *lists)
        plan = local_metadata.get(PLAN) or Plan(local_metadata.get(ASSIGN, False))
        missing = missing_keys if strict else []
        found = _plan_module(self, plan, state_dict, prefix, missing, error_msgs)
        if strict and found < len(state_dict):
            unexpected_keys += _unexpected(self, state_dict, prefix)
        if PLAN not in local_metadata:
            error_msgs += plan.apply()


# The methods of a class that does not override them.
_LOAD_ALONE = {Loading._load_from_state_dict, torch.nn.Module._load_from_state_dict}
_NO_EXTRA = {
    method
    for cls in (Loading, torch.nn.Module)
    for method in (cls.get_extra_state, cls.set_extra_state)
}


class _Load:
    """One ``load_state_dict``."""

    def __init__(
        self, root: AnyModule, state: Mapping[str, Any], strict: bool, assign: bool
    ) -> None:
        self.root, self.given, self.strict, self.assign = root, state, strict, assign
        self.metadata = getattr(state, "_metadata", None) or {}
        self.undo: list[Callable[[], Any]] = []

    def run(self) -> Any:
        try:
            self._plan_tree()
            if self._misfits() and self.plan.extras:
                self._set_extra_states()
                self._plan_tree()
            if self._misfits():
                # A post-hook may remove missing and unexpected keys from the lists, and may need
                # the loaded tensors for it. So load, run the hooks, and undo it if keys remain.
                if self.problems or not self.hooked:
                    self._fail()
                self.undo += self.plan.undo()
            self.problems += self.plan.apply()
            for module in self.hooked:
                self._run_post_hooks(module)
            if self._misfits():
                self._fail()
        except Exception:
            for restore in reversed(self.undo):
                restore()
            raise
        return self.keys

    def _plan_tree(self) -> None:
        state: OrderedDict[str, Any] = OrderedDict(self.given)
        state._metadata = self.metadata  # type: ignore[attr-defined]
        self.keys = _IncompatibleKeys([], [])
        self.problems: list[str] = []
        self.plan = Plan(self.assign)
        self.hooked: list[AnyModule] = []
        self._visit(self.root, state, "")

    def _misfits(self) -> bool:
        return bool(self.problems or (self.strict and (self.keys[0] or self.keys[1])))

    def _set_extra_states(self) -> None:
        # Setting an extra state may create the children that other keys name.
        for module, state in self.plan.extras:
            if type(module).get_extra_state not in _NO_EXTRA:
                self.undo.append(partial(module.set_extra_state, module.get_extra_state()))
            module.set_extra_state(state)

    def _visit(self, module: AnyModule, state: dict[str, Any], prefix: str) -> None:
        """Plan a module and all below it. The state has only keys with the prefix."""
        if _is_plain(module):
            visited: list[tuple[AnyModule, str]] = []
            if self._visit_plain(module, state, prefix, visited) < len(state):
                for each, path in visited:
                    self.keys.unexpected_keys.extend(_unexpected(each, state, path))
            return
        if not isinstance(module, Loading):  # a torch module with its own loading code
            self.undo += _restorers(module)
        metadata = {**self.metadata.get(prefix[:-1], {}), PLAN: self.plan}
        metadata |= {ASSIGN: True} if self.assign else {}
        lists = *self.keys, self.problems
        module._load_from_state_dict(state, prefix, metadata, True, *lists)
        parts = _partition(state, prefix)
        for name, child in child_slots(module):
            if child is not None:
                self._visit(child, parts.get(name, {}), f"{prefix}{name}.")
        self._note_post_hooks(module)

    def _visit_plain(
        self, module: AnyModule, state: dict[str, Any], prefix: str, visited: list[Any]
    ) -> int:
        """Plan a module and all below it in a state that may have other keys; return how many keys
        it used. Children with loading code of their own get their part of the state.
        """
        visited.append((module, prefix))
        missing = self.keys.missing_keys
        found = _plan_module(module, self.plan, state, prefix, missing, self.problems)
        parts = None
        for name, child in child_slots(module):
            if child is None:
                continue
            if _is_plain(child):
                found += self._visit_plain(child, state, f"{prefix}{name}.", visited)
            else:
                parts = _partition(state, prefix) if parts is None else parts
                part = parts.get(name, {})
                found += len(part)
                self._visit(child, part, f"{prefix}{name}.")
        self._note_post_hooks(module)
        return found

    def _note_post_hooks(self, module: AnyModule) -> None:
        if HOOKED in module.__dict__ and module._load_state_dict_post_hooks:
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
        name = type(self.root).__name__
        raise RuntimeError(f"Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(lines))


def _is_plain(module: AnyModule) -> bool:
    """Whether the module has no loading code of its own that looks at the state."""
    alone = getattr(type(module), "_load_from_state_dict", None) in _LOAD_ALONE
    return alone and not table_of(module, "_load_state_dict_pre_hooks")


def _plan_module(
    module: AnyModule,
    plan: Plan,
    state: Mapping[str, Any],
    prefix: str,
    missing: list[str],
    problems: list[str],
) -> int:
    found = plan.add_own(module, state, prefix, missing, problems)
    if type(module).set_extra_state not in _NO_EXTRA:
        key = prefix + EXTRA_STATE
        if key in state:
            plan.extras.append((module, state[key]))
            return found + 1
        missing.append(key)
    return found


def _unexpected(module: AnyModule, state: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the keys with the prefix that name neither a child nor a member of the module."""
    children = {name for name, _ in child_slots(module)}
    known = {name for name, _ in own_state(module)}
    if type(module).set_extra_state not in _NO_EXTRA:
        known.add(EXTRA_STATE)
    found = []
    for key in state:
        if key.startswith(prefix):
            first, dot, _ = key[len(prefix) :].partition(".")
            if first not in (children if dot else known):
                found.append(key)
    return found


def _restorers(module: AnyModule) -> list[Callable[[], Any]]:
    """Return functions that restore the present tensors and values of a torch module."""
    found: list[Callable[[], Any]] = []
    for name, tensor in own_state(module):
        if not is_lazy(tensor):
            found.append(partial(tensor.detach().copy_, tensor.detach().clone()))
            found.append(partial(setattr, module, name, tensor))
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
