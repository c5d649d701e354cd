"""Hooks: functions that run around a call, a backward pass, saving and loading.

The tables have the names and the layout of torch.nn.Module, and the global ones are torch's own:
a profiler that hooks into every torch module sees ours as well.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.nn.modules import module as torch_module
from torch.utils.hooks import BackwardHook, RemovableHandle

from cupola.nn.store import Store

Hook = Callable[..., Any]
Table = OrderedDict[int, Any]


class HookTable:
    """A table that comes into being when it is first asked for; most modules never need one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, module: None, owner: type) -> "HookTable": ...
    @overload
    def __get__(self, module: Store, owner: type) -> Table: ...
    def __get__(self, module: Store | None, owner: type) -> "Table | HookTable":
        if module is None:
            return self
        table: Table = OrderedDict()
        module.__dict__.update({self.name: table, "_hooked": True})
        return table


class Hooks(Store):
    """Registration of hooks, and the call that runs them."""

    # Whether a call has to look for hooks; true once any table exists.
    _hooked: bool = False
    _is_full_backward_hook: bool | None = None

    _forward_pre_hooks = HookTable()
    _forward_pre_hooks_with_kwargs = HookTable()
    _forward_hooks = HookTable()
    _forward_hooks_with_kwargs = HookTable()
    _forward_hooks_always_called = HookTable()
    _backward_pre_hooks = HookTable()
    _backward_hooks = HookTable()
    _state_dict_pre_hooks = HookTable()
    _state_dict_hooks = HookTable()
    _load_state_dict_pre_hooks = HookTable()
    _load_state_dict_post_hooks = HookTable()

    def __delattr__(self, name: str) -> None:
        if isinstance(getattr(type(self), name, None), HookTable):
            self.__dict__.pop(name, None)  # one that nobody has asked for is empty all the same
        else:
            super().__delattr__(name)

    def register_forward_pre_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Run ``hook(module, args)`` before forward; what it returns replaces the arguments.

        Args:
            prepend: run before the hooks that are there already.
            with_kwargs: run ``hook(module, args, kwargs)``, which returns None or a pair.
        """
        flags = [self._forward_pre_hooks_with_kwargs] if with_kwargs else []
        return add_hook(self._forward_pre_hooks, hook, prepend, flags)

    def register_forward_hook(
        self,
        hook: Hook,
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Run ``hook(module, args, output)`` after forward; a result replaces the output.

        Args:
            prepend: run before the hooks that are there already.
            with_kwargs: run ``hook(module, args, kwargs, output)``.
            always_call: run after an exception too; its own errors become warnings then.
        """
        flags = [self._forward_hooks_with_kwargs] if with_kwargs else []
        flags += [self._forward_hooks_always_called] if always_call else []
        return add_hook(self._forward_hooks, hook, prepend, flags)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(module, grad_output)`` before the gradients of the inputs are computed."""
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(module, grad_input, grad_output)`` when both are known; a tuple that it
        returns replaces ``grad_input``. RuntimeError where hooks of the legacy kind exist."""
        self._claim_backward_kind(full=True)
        return add_hook(self._backward_hooks, hook, prepend)

    def register_backward_hook(self, hook: Hook) -> RemovableHandle:
        """Register a hook of the legacy kind, which sees the last operation alone."""
        self._claim_backward_kind(full=False)
        return add_hook(self._backward_hooks, hook)

    def _claim_backward_kind(self, full: bool) -> None:
        if self._is_full_backward_hook is (not full):
            raise RuntimeError(
                "Cannot use both regular backward hooks and full backward hooks on a single "
                "Module. Please use only one of them."
            )
        self._is_full_backward_hook = full

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _HookedCall(self, args, kwargs)
        # A compiler cannot trace the retry after an exception, and would not need it.
        return call.run() if torch.compiler.is_compiling() else call.run_to_the_end()


class _HookedCall:
    """One call of a module through its hooks; global hooks come before the module's own."""

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.result: Any = None
        self.fired: set[int] = set()

    def run_to_the_end(self) -> Any:
        try:
            return self.run()
        except Exception:
            self._run_always_called()
            raise

    def run(self) -> Any:
        self._run_pre_hooks()
        backward = self._backward_hook()
        if backward is not None:
            self.args = backward.setup_input_hook(self.args)  # type: ignore[no-untyped-call]
        self.result = self.module.forward(*self.args, **self.kwargs)
        for hook_id, hook in self._all("_forward_hooks").items():
            self.fired.add(hook_id)
            self._run_forward_hook(hook_id, hook)
        if backward is not None:
            if not isinstance(self.result, (torch.Tensor, tuple)):
                warnings.warn(
                    "For backward hooks to be called, module output should be a Tensor or a tuple "
                    f"of Tensors but received {type(self.result)}",
                    stacklevel=5,
                )
            self.result = backward.setup_output_hook(self.result)  # type: ignore[no-untyped-call]
        self._attach_legacy_hooks()
        return self.result

    def _all(self, name: str) -> dict[int, Any]:
        """Return a table's entries for every module, then for this one; no number is in both."""
        everywhere: Any = getattr(torch_module, f"_global{name}", _NO_HOOKS)
        return {**everywhere, **table_of(self.module, name)}

    def _run_pre_hooks(self) -> None:
        with_kwargs = table_of(self.module, "_forward_pre_hooks_with_kwargs")
        for hook_id, hook in self._all("_forward_pre_hooks").items():
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
        with_kwargs = hook_id in self._all("_forward_hooks_with_kwargs")
        extra = (self.kwargs,) if with_kwargs else ()
        result = hook(self.module, self.args, *extra, self.result)
        if result is not None:
            self.result = result

    def _run_always_called(self) -> None:
        hooks = self._all("_forward_hooks")
        for hook_id in self._all("_forward_hooks_always_called"):
            if hook_id in self.fired or hook_id not in hooks:
                continue
            try:
                self._run_forward_hook(hook_id, hooks[hook_id])
            except Exception as error:
                everywhere = hook_id in torch_module._global_forward_hooks
                warnings.warn(
                    f"{'global module' if everywhere else 'module'} forward hook with "
                    "``always_call=True`` raised an exception that was silenced as another error "
                    f"was raised in forward: {error}",
                    stacklevel=5,
                )

    def _backward_hook(self) -> BackwardHook | None:
        full = self._backward_hooks(full=True)
        pre = list(self._all("_backward_pre_hooks").values())
        return BackwardHook(self.module, full, pre) if full or pre else None

    def _backward_hooks(self, full: bool) -> list[Hook]:
        hooks: list[Hook] = []
        if torch_module._global_is_full_backward_hook is full:
            hooks += torch_module._global_backward_hooks.values()
        if self.module._is_full_backward_hook is full:
            hooks += table_of(self.module, "_backward_hooks").values()
        return hooks

    def _attach_legacy_hooks(self) -> None:
        hooks = self._backward_hooks(full=False)
        if not hooks:
            return
        output = self.result
        while not isinstance(output, torch.Tensor):
            if isinstance(output, dict):
                output = next(v for v in output.values() if isinstance(v, torch.Tensor))
            else:
                output = output[0]
        if output.grad_fn is not None:
            for hook in hooks:
                output.grad_fn.register_hook(torch_module._WrappedHook(hook, self.module))
            torch.nn.Module._maybe_warn_non_full_backward_hook(
                self.module, self.args, self.result, output.grad_fn
            )


def table_of(module: Any, name: str) -> Table:
    """Return a module's table of hooks without making one: the descriptor is read past."""
    table: Table = module.__dict__.get(name, _NO_HOOKS)
    return table


_NO_HOOKS: Table = OrderedDict()


def add_hook(
    table: Table, hook: Hook, prepend: bool = False, flags: list[Table] | None = None
) -> RemovableHandle:
    """Put a hook into a table, and its number into the tables that mark its kind."""
    handle = RemovableHandle(table, extra_dict=flags)
    table[handle.id] = hook
    for marks in flags or ():
        marks[handle.id] = True
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle
