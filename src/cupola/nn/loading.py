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
from cupola.nn.plan import Plan
from cupola.nn.saving import Saving, own_state
from cupola.nn.traversal import AnyModule

ASSIGN: Final = "assign_to_params_buffers"
PLAN: Final = "cupola_plan"  # key in a module's metadata that holds the plan
Keys = dict[str, Any]  # what a state has for a module and those below it, see `_nested`


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
        keys = _nested(state_dict, prefix)
        plan.add(self, keys, prefix, missing_keys if strict else [], error_msgs)
        if strict:
            for name in self._modules:
                keys.pop(f"{prefix}{name}.", None)
            unexpected_keys += _flat(keys, prefix)
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
        self.keys = _IncompatibleKeys([], [])
        self.problems: list[str] = []
        self.plan = Plan(self.assign)
        self.hooked: list[AnyModule] = []
        self._visit(self.root, _nested(self.given, ""), "")

    def _misfits(self) -> bool:
        return bool(self.problems or (self.strict and (self.keys[0] or self.keys[1])))

    def _set_extra_states(self) -> None:
        # Setting an extra state may create the children that other keys name.
        for module, state in self.plan.extras:
            if type(module).get_extra_state is not TorchModule.get_extra_state:
                self.undo.append(partial(module.set_extra_state, module.get_extra_state()))
            module.set_extra_state(state)

    def _visit(self, module: AnyModule, keys: Keys, prefix: str) -> None:
        """Plan a module and all below it, and use up their keys."""
        is_plain = _is_plain(module)
        if is_plain:
            self.plan.add(module, keys, prefix, self.keys.missing_keys, self.problems)
        else:
            keys = self._load_alone(module, keys, prefix)
        below = []
        if children := module._modules:
            for name, child in children.items():
                path = f"{prefix}{name}."
                below.append((child, keys.pop(path, {}), path))
        if is_plain and keys:
            self.keys.unexpected_keys.extend(_flat(keys, prefix))
        for child, part, path in below:
            if child is not None:  # the keys of an empty slot are passed over
                self._visit(child, part, path)
        if HOOKED in module.__dict__ and module._load_state_dict_post_hooks:
            self.hooked.append(module)

    def _load_alone(self, module: AnyModule, keys: Keys, prefix: str) -> Keys:
        """Call the loading code of a module; return the keys that it leaves."""
        if not isinstance(module, Loading):  # a torch module with loading code of its own
            self.undo += _restorers(module)
        state: OrderedDict[str, Any] = OrderedDict(_flat(keys, prefix))
        state._metadata = self.metadata  # type: ignore[attr-defined]
        metadata = {**self.metadata.get(prefix[:-1], {}), PLAN: self.plan}
        metadata |= {ASSIGN: True} if self.assign else {}
        module._load_from_state_dict(state, prefix, metadata, True, *self.keys, self.problems)
        return _nested(state, prefix)

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
    return alone and not module.__dict__.get("_load_state_dict_pre_hooks")


def _restorers(module: AnyModule) -> list[Callable[[], Any]]:
    """Return functions that restore the present tensors and values of a torch module."""
    found: list[Callable[[], Any]] = []
    for name, tensor in own_state(module):
        if not is_lazy(tensor):
            found.append(partial(tensor.detach().copy_, tensor.detach().clone()))
            found.append(partial(setattr, module, name, tensor))
    return found


def _nested(state: Mapping[str, Any], prefix: str) -> Keys:
    """Return what a state has below a prefix: by name what is of the module there, and by its own
    prefix what is of each module below, likewise."""
    root: Keys = {}
    found = {prefix[:-1]: root} if prefix else {}

    def add(path: str) -> Keys:
        above, dot, _ = path.rpartition(".")
        parent = (found[above] if above in found else add(above)) if dot else root
        new = found[path] = parent[path + "."] = {}
        return new

    for key, value in state.items():
        if not prefix or key.startswith(prefix):
            path, dot, name = key.rpartition(".")
            own = found.get(path) if dot else root
            (add(path) if own is None else own)[name] = value
    return root


def _flat(keys: Keys, prefix: str) -> dict[str, Any]:
    """Return the keys as they are in a state."""
    found: dict[str, Any] = {}
    for name, value in keys.items():
        found |= _flat(value, name) if "." in name else {prefix + name: value}
    return found
