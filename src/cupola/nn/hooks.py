"""Hooks: functions that run around a call, a backward pass, saving and loading.

The tables have the names and the layout of torch.nn.Module, so torch's own methods register hooks
in them. The global tables are torch's, so that a profiler that hooks into every torch module also
sees cupola modules.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from cupola.nn.class_checks import TorchModule
from cupola.nn.members import EMPTY, Lazy
from cupola.nn.store import Store, take_tables

Hook = Callable[..., Any]
Register = Callable[..., RemovableHandle]
HookTable = OrderedDict[int, Any]
HOOKED: Final = "_is_full_backward_hook"  # in the `__dict__` of a module whose hooks can run
NO_HOOKS: Final = object()


def _new_table(module: Store) -> HookTable:
    module.__dict__.setdefault(HOOKED, None)
    return OrderedDict()


class Hooks(Store):
    """Hook tables, their registration, and the call that runs the hooks."""

    # The kind of the backward hooks, as in torch, once there is a table of hooks. Modules of torch
    # always have it, so a call also looks at what was copied from the `__dict__` of one.
    _is_full_backward_hook: Any = NO_HOOKS
    forward: Hook

    _forward_pre_hooks = Lazy(_new_table)
    _forward_pre_hooks_with_kwargs = Lazy(_new_table)
    _forward_hooks = Lazy(_new_table)
    _forward_hooks_with_kwargs = Lazy(_new_table)
    _forward_hooks_always_called = Lazy(_new_table)
    _backward_pre_hooks = Lazy(_new_table)
    _backward_hooks = Lazy(_new_table)
    _state_dict_pre_hooks = Lazy(_new_table)
    _state_dict_hooks = Lazy(_new_table)
    _load_state_dict_pre_hooks = Lazy(_new_table)
    _load_state_dict_post_hooks = Lazy(_new_table)

    register_forward_pre_hook: Register = TorchModule.register_forward_pre_hook
    register_forward_hook: Register = TorchModule.register_forward_hook
    register_full_backward_pre_hook: Register = TorchModule.register_full_backward_pre_hook
    register_full_backward_hook: Register = TorchModule.register_full_backward_hook
    register_backward_hook: Register = TorchModule.register_backward_hook
    register_state_dict_pre_hook: Register = TorchModule.register_state_dict_pre_hook
    register_state_dict_post_hook: Register = TorchModule.register_state_dict_post_hook
    _register_state_dict_hook: Register = TorchModule._register_state_dict_hook
    register_load_state_dict_pre_hook: Register = TorchModule.register_load_state_dict_pre_hook
    _register_load_state_dict_pre_hook: Register = TorchModule._register_load_state_dict_pre_hook
    register_load_state_dict_post_hook: Register = TorchModule.register_load_state_dict_post_hook

    # The call with backward hooks, and what it calls.
    _call_impl: Hook = TorchModule._call_impl
    _slow_forward: Hook = TorchModule._slow_forward
    _get_backward_hooks: Hook = TorchModule._get_backward_hooks
    _get_backward_pre_hooks: Hook = TorchModule._get_backward_pre_hooks
    _maybe_warn_non_full_backward_hook: Hook = TorchModule._maybe_warn_non_full_backward_hook

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        values = self.__dict__
        if HOOKED not in values:
            return
        for name in HOOK_TABLES & state.keys():  # those of a torch module are there if empty, too
            if not values[name]:
                del values[name]
        if HOOK_TABLES.isdisjoint(values):
            del values[HOOKED]

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        take_tables(self)
        tables = self.__dict__
        if (
            tables.get("_backward_hooks")
            or tables.get("_backward_pre_hooks")
            or torch_module._global_backward_hooks
            or torch_module._global_backward_pre_hooks
        ):
            return self._call_impl(*args, **kwargs)
        result: Any = None
        ran: set[int] = set()
        try:
            if tables.get("_forward_pre_hooks") or torch_module._global_forward_pre_hooks:
                args, kwargs = _run_pre_hooks(self, args, kwargs)
            result = self.forward(*args, **kwargs)
            if tables.get("_forward_hooks") or torch_module._global_forward_hooks:
                for hook_id, hook in _forward_hooks(tables):
                    ran.add(hook_id)
                    result = _run_hook(hook_id, hook, self, args, kwargs, result)
        except Exception:
            _run_always_called(ran, self, args, kwargs, result)
            raise
        return result


def _run_pre_hooks(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    own = module.__dict__.get("_forward_pre_hooks", EMPTY)
    with_kwargs = module.__dict__.get("_forward_pre_hooks_with_kwargs", EMPTY)
    for hook_id, hook in (*torch_module._global_forward_pre_hooks.items(), *own.items()):
        if hook_id not in with_kwargs:
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
            continue
        pair = hook(module, args, kwargs)
        if pair is None:
            continue
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise RuntimeError(
                "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                f"but got {pair}."
            )
        args, kwargs = pair
    return args, kwargs


def _forward_hooks(tables: Mapping[str, Any]) -> tuple[tuple[int, Hook], ...]:
    """Return the global hooks, then those of a module: a copy, since a hook may remove itself."""
    own: Mapping[int, Hook] = tables.get("_forward_hooks", EMPTY)
    return *torch_module._global_forward_hooks.items(), *own.items()


def _run_hook(
    hook_id: int, hook: Hook, module: Any, args: Any, kwargs: dict[str, Any], result: Any
) -> Any:
    """Run a forward hook; return its result, or the present one if it returns None."""
    if (
        hook_id in module.__dict__.get("_forward_hooks_with_kwargs", EMPTY)
        or hook_id in torch_module._global_forward_hooks_with_kwargs
    ):
        changed = hook(module, args, kwargs, result)
    else:
        changed = hook(module, args, result)
    return result if changed is None else changed


def _run_always_called(
    ran: set[int], module: Any, args: Any, kwargs: dict[str, Any], result: Any
) -> None:
    """Run the hooks with ``always_call`` that have not run when an exception was raised."""
    everywhere, tables = torch_module._global_forward_hooks_always_called, module.__dict__
    always = {*everywhere, *tables.get("_forward_hooks_always_called", EMPTY)} - ran
    for hook_id, hook in _forward_hooks(tables):
        if hook_id not in always:
            continue
        try:
            result = _run_hook(hook_id, hook, module, args, kwargs, result)
        except Exception as error:
            warnings.warn(
                f"{'global module' if hook_id in everywhere else 'module'} forward hook with "
                "``always_call=True`` raised an exception that was silenced as another error "
                f"was raised in forward: {error}",
                stacklevel=4,
            )


HOOK_TABLES: Final = frozenset(
    name for name, value in vars(Hooks).items() if isinstance(value, Lazy)
)
