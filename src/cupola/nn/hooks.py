"""Hooks: functions that run around a call, a backward pass, saving and loading.

The tables have the names and the layout of torch.nn.Module, so torch's own methods register hooks
in them. The global tables are torch's, so that a profiler that hooks into every torch module also
sees cupola modules.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
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
        call = _HookedCall(self, args, kwargs)
        if torch.compiler.is_compiling():
            return call.run()  # the compiler cannot trace the handling of exceptions
        try:
            return call.run()
        except Exception:
            call.run_always_called()
            raise


class _HookedCall:
    """One call of a module with its forward hooks; global hooks run before the module's own."""

    __slots__ = ("args", "fired", "kwargs", "module", "result", "tables")

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.tables = module.__dict__
        self.result: Any = None
        self.fired: set[int] = set()

    def run(self) -> Any:
        if self.tables.get("_forward_pre_hooks") or torch_module._global_forward_pre_hooks:
            self._run_pre_hooks()
        self.result = self.module.forward(*self.args, **self.kwargs)
        own = self.tables.get("_forward_hooks")
        if own or torch_module._global_forward_hooks:
            for hook_id, hook in _both(torch_module._global_forward_hooks, own or EMPTY):
                self.fired.add(hook_id)
                self._run_forward_hook(hook_id, hook)
        return self.result

    def _run_pre_hooks(self) -> None:
        own = self.tables.get("_forward_pre_hooks", EMPTY)
        with_kwargs = self.tables.get("_forward_pre_hooks_with_kwargs", EMPTY)
        for hook_id, hook in _both(torch_module._global_forward_pre_hooks, own):
            if hook_id in with_kwargs:
                pair = hook(self.module, self.args, self.kwargs)
                if pair is None:
                    continue
                if not (isinstance(pair, tuple) and len(pair) == 2):
                    raise RuntimeError(
                        "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                        f"but got {pair}."
                    )
                self.args, self.kwargs = pair
            else:
                args = hook(self.module, self.args)
                if args is not None:
                    self.args = args if isinstance(args, tuple) else (args,)

    def _run_forward_hook(self, hook_id: int, hook: Hook) -> None:
        if (
            hook_id in self.tables.get("_forward_hooks_with_kwargs", EMPTY)
            or hook_id in torch_module._global_forward_hooks_with_kwargs
        ):
            result = hook(self.module, self.args, self.kwargs, self.result)
        else:
            result = hook(self.module, self.args, self.result)
        if result is not None:
            self.result = result

    def run_always_called(self) -> None:
        """Run the hooks with ``always_call`` that have not run when an exception was raised."""
        everywhere = torch_module._global_forward_hooks
        always = {
            *torch_module._global_forward_hooks_always_called,
            *self.tables.get("_forward_hooks_always_called", EMPTY),
        }
        for hook_id, hook in _both(everywhere, self.tables.get("_forward_hooks", EMPTY)):
            if hook_id not in always or hook_id in self.fired:
                continue
            try:
                self._run_forward_hook(hook_id, hook)
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


def _both(everywhere: Mapping[int, Hook], own: Mapping[int, Hook]) -> tuple[tuple[int, Hook], ...]:
    # A tuple, because a hook may remove itself while it runs.
    return *everywhere.items(), *own.items()
