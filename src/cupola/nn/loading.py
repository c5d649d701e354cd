"""Loading: ``load_state_dict`` plans the whole tree and checks the plan, then changes the tree."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy

from cupola.nn.class_checks import TorchModule
from cupola.nn.hooks import HOOKED
from cupola.nn.members import table_of
from cupola.nn.plan import Plan, has_extra_state
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
            state_dict: path -> tensor; it is not changed. TypeError if it is not dict-like.
            strict: raise RuntimeError if keys are missing or unexpected, as for shapes that do not
                match. The module is unchanged then.
            assign: use the given tensors themselves instead of copying them. Dtype and device
                become theirs; ``requires_grad`` and ties stay.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        return _Load(self, state_dict, strict, assign).run()

    set_extra_state: Callable[[Any, Any], None] = TorchModule.set_extra_state

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
        Within :meth:`load_state_dict` it only adds to the plan."""
        lists = missing_keys, unexpected_keys, error_msgs
        for hook in table_of(self, "_load_state_dict_pre_hooks").values():
            hook(state_dict, prefix, local_metadata, strict, *lists)
        plan = local_metadata.get(PLAN) or Plan(local_metadata.get(ASSIGN, False))
        plan.add(self, state_dict.get, prefix, missing_keys if strict else [], error_msgs)
        if strict:
            unexpected_keys += _unexpected(self, state_dict, prefix)
        if PLAN not in local_metadata:
            error_msgs += plan.apply()


# The method of a class that does not override it.
_LOAD_ALONE = (Loading._load_from_state_dict, TorchModule._load_from_state_dict)


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
        _sort(self.keys.unexpected_keys, self.root)

    def _misfits(self) -> bool:
        return bool(self.problems or (self.strict and (self.keys[0] or self.keys[1])))

    def _set_extra_states(self) -> None:
        # Setting an extra state may create the children that other keys name.
        for module, state in self.plan.extras:
            if type(module).get_extra_state is not TorchModule.get_extra_state:
                self.undo.append(partial(module.set_extra_state, module.get_extra_state()))
            module.set_extra_state(state)

    def _visit(self, module: AnyModule, state: dict[str, Any], prefix: str) -> None:
        """Plan a module and all below it. The state has only their keys, and is used up."""
        if _is_plain(module):
            self._visit_plain(module, state, prefix)
            self.keys.unexpected_keys.extend(state)
            return
        if not isinstance(module, Loading):  # a torch module with loading code of its own
            self.undo += _restorers(module)
        metadata = {**self.metadata.get(prefix[:-1], {}), PLAN: self.plan}
        metadata |= {ASSIGN: True} if self.assign else {}
        module._load_from_state_dict(state, prefix, metadata, True, *self.keys, self.problems)
        parts = _partition(state, prefix)
        for name, child in child_slots(module):
            if child is not None:
                self._visit(child, parts.get(name, {}), f"{prefix}{name}.")
        self._note_post_hooks(module)

    def _visit_plain(self, module: AnyModule, state: dict[str, Any], prefix: str) -> None:
        """Plan a module and all below it, and take their keys out of a state that has others."""
        self.plan.add(module, state.pop, prefix, self.keys.missing_keys, self.problems)
        parts = None
        for name, child in child_slots(module):
            path = f"{prefix}{name}."
            if child is not None and _is_plain(child):
                self._visit_plain(child, state, path)
                continue
            parts = _partition(state, prefix) if parts is None else parts
            part = parts.get(name, {})
            for key in part:
                del state[key]
            if child is not None:  # the keys of an empty slot are passed over
                self._visit(child, part, path)
        self._note_post_hooks(module)

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


def _unexpected(module: AnyModule, state: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the keys with the prefix that name neither a child nor a member of the module."""
    children = {name for name, _ in child_slots(module)}
    known = {name for name, _ in own_state(module)}
    if has_extra_state(module):
        known.add(EXTRA_STATE)
    found = []
    for key in state:
        if key.startswith(prefix):
            first, dot, _ = key[len(prefix) :].partition(".")
            if first not in (children if dot else known):
                found.append(key)
    return found


def _sort(keys: list[str], root: AnyModule) -> None:
    """Sort keys as torch lists them: by the module that lacks them."""
    if keys:
        modules = root.named_modules(remove_duplicate=False)
        places = {path: place for place, (path, _) in enumerate(modules)}

        def place(key: str) -> int:
            path = key.rpartition(".")[0]
            return places[path] if path in places else place(path)

        keys.sort(key=place)


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
    for key, value in state.items():
        if key.startswith(prefix):
            child, dot, _ = key[len(prefix) :].partition(".")
            if dot:
                parts.setdefault(child, {})[key] = value
    return parts
