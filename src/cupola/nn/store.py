"""Storage of a module's members, and the rules of assignment.

Parameters, buffers and children are in the instance's own ``__dict__`` under their names, so
reading one costs as much as reading any attribute. One ordered table, ``_kinds``, maps the names of
members to what they are.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import (
    _global_buffer_registration_hooks,
    _global_module_registration_hooks,
    _global_parameter_registration_hooks,
)

from cupola.nn.class_checks import ClassChecks
from cupola.nn.members import (
    BUFFER,
    MODULE,
    PARAMETER,
    TRANSIENT,
    ChildrenTable,
    Kinds,
    Members,
    TransientNames,
)

# Values of these exact types are never members; checking the type is the fastest way to know.
PLAIN_TYPES: Final = frozenset({int, float, bool, str, bytes, type(None), tuple, torch.dtype})

TorchModule: Final = torch.nn.Module


def unreplaced(method: Any) -> Any:
    """Return a method of torch, or None if a tool had replaced it before this was imported."""
    code = getattr(method, "__code__", None)
    return method if code and code.co_filename == torch_module.__file__ else None


REGISTER_PARAMETER: Final = unreplaced(TorchModule.register_parameter)
REGISTER_BUFFER: Final = unreplaced(TorchModule.register_buffer)

# What is called with each module that is constructed: a build counts them before it goes on.
creation_watcher: ContextVar[Callable[["Store"], None] | None] = ContextVar(
    "creation_watcher", default=None
)


class Store(ClassChecks):
    """An object whose attributes follow the rules of a module: the base class of this package."""

    call_super_init: bool = False
    _kinds: Kinds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            raise TypeError(_unexpected_arguments(type(self).__name__, args, kwargs))
        if (watcher := creation_watcher.get()) is not None:
            watcher(self)
        self.__dict__["_kinds"] = {}
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # Assignment ----------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        """Store a member or an ordinary attribute.

        Raises:
            AttributeError: a member is assigned before ``__init__`` has run.
            TypeError: the name is a parameter, buffer or child, and the value is not.
        """
        kinds = self.__dict__.get("_kinds")
        is_member = type(value) not in PLAIN_TYPES and isinstance(value, MEMBER_TYPES)
        if is_member or (kinds and name in kinds):
            self._assign_member(name, value)
        else:
            if name == "_modules":
                self._replace_members(value, MODULE)
                return
            if type(value) in (list, dict) and not name.startswith("_"):
                _warn_of_hidden_modules(type(self).__name__, name, value)
            object.__setattr__(self, name, value)

    def _assign_member(self, name: str, value: Any) -> None:
        kind = self.__dict__.get("_kinds", {}).get(name)
        if isinstance(value, Store) and kind != PARAMETER:
            self._assign_module(name, value, kind)
        elif isinstance(value, Parameter):
            self._require_init("parameters")
            if kind != PARAMETER:
                self._forget(name)
            self.register_parameter(name, value)
        elif kind == PARAMETER:
            _require_none(value, f"parameter '{name}'", "torch.nn.Parameter or None expected")
            self.register_parameter(name, None)
        elif kind == MODULE or isinstance(value, MODULE_TYPES):
            self._assign_module(name, value, kind)
        elif kind in (BUFFER, TRANSIENT) or isinstance(value, Buffer):
            self._assign_buffer(name, value, kind)
        else:
            object.__setattr__(self, name, value)

    def _assign_module(self, name: str, value: Any, kind: str | None) -> None:
        self._require_init("module")
        if not isinstance(value, MODULE_TYPES):
            _require_none(value, f"child module '{name}'", "torch.nn.Module or None expected")
        elif kind != MODULE:
            self._forget(name)
        self._keep(name, _after_hooks(_global_module_registration_hooks, self, name, value), MODULE)

    def _assign_buffer(self, name: str, value: Any, kind: str | None) -> None:
        if value is not None and not _is_tensor(value):
            raise TypeError(
                f"cannot assign '{torch.typename(value)}' as buffer '{name}' "
                "(torch.nn.Buffer, torch.Tensor or None expected)"
            )
        persistent = value.persistent if isinstance(value, Buffer) else kind != TRANSIENT
        if type(self).register_buffer is Store.register_buffer or _takes_persistent(self):
            self.register_buffer(name, value, persistent)
        elif persistent:
            self.register_buffer(name, value)
        else:
            raise RuntimeError(
                "Registering a non-persistent buffer on a Module subclass that implements "
                "register_buffer() without the persistent argument is not allowed."
            )

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_kinds", ()):
            self._forget(name)
        else:
            object.__delattr__(self, name)

    # Registration --------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or a slot that holds None.

        Raises:
            TypeError: the name is not a string, or the value not a Parameter.
            KeyError: the name is empty, contains a dot, or is taken by another attribute.
            ValueError: the parameter is the result of an operation.
        """
        self._require_init("parameter")
        if TorchModule.register_parameter is not REGISTER_PARAMETER:
            self._register_with(TorchModule.register_parameter, "_parameters", name, param)
            return
        self._check_name("parameter", name, (PARAMETER,))
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{torch.typename(param)}' object to parameter '{name}' "
                    "(torch.nn.Parameter or None required)"
                )
            if param.grad_fn:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must "
                    f"be created explicitly. To express '{name}' as a function of another Tensor, "
                    "compute the value in the forward() method."
                )
            param = _after_hooks(_global_parameter_registration_hooks, self, name, param)
        self._keep(name, param, PARAMETER)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not a parameter; ``persistent=False`` keeps it out of the
        state dict. Raises like :meth:`register_parameter`."""
        self._require_init("buffer")
        if TorchModule.register_buffer is not REGISTER_BUFFER:
            self._register_with(TorchModule.register_buffer, "_buffers", name, tensor, persistent)
            return
        self._check_name("buffer", name, (BUFFER, TRANSIENT))
        if tensor is not None and not _is_tensor(tensor):
            raise TypeError(
                f"cannot assign '{torch.typename(tensor)}' object to buffer '{name}' "
                "(torch Tensor or None required)"
            )
        tensor = _after_hooks(_global_buffer_registration_hooks, self, name, tensor)
        self._keep(name, tensor, BUFFER if persistent else TRANSIENT)

    def add_module(self, name: str, module: Any) -> None:
        """Add a child, or a slot that holds None. Raises like :meth:`register_parameter`."""
        if module is not None and not isinstance(module, MODULE_TYPES):
            raise TypeError(f"{torch.typename(module)} is not a Module subclass")
        self._require_init("module")
        self._check_name("module", name, (MODULE,))
        module = _after_hooks(_global_module_registration_hooks, self, name, module)
        self._keep(name, module, MODULE)

    def register_module(self, name: str, module: Any) -> None:
        """Alias of :meth:`add_module`."""
        self.add_module(name, module)

    def _register_with(self, register: Callable[..., None], table: str, *args: Any) -> None:
        """Registers with what a tool, such as accelerate's init_empty_weights, has put in the place
        of torch's method. That looks for the table in ``__dict__``, and writes to its view."""
        self.__dict__[table] = None
        try:
            register(self, *args)
        finally:
            del self.__dict__[table]

    def _keep(self, name: str, value: Any, kind: str) -> None:
        values = self.__dict__
        if kind == MODULE and "_modules" in values:
            dict.__setitem__(values["_modules"], name, value)
        values[name] = value
        self._kinds[name] = kind

    def _forget(self, name: str) -> Any:
        """Removes a member or attribute; returns its kind."""
        values = self.__dict__
        values.pop(name, None)
        kind = values.get("_kinds", {}).pop(name, None)
        if kind == MODULE and "_modules" in values:
            dict.pop(values["_modules"], name, None)
        return kind

    def _require_init(self, what: str) -> None:
        if "_kinds" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")

    def _check_name(self, what: str, name: str, kinds: tuple[str, ...]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {torch.typename(name)}")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and self._kinds.get(name) not in kinds:
            raise KeyError(f"attribute '{name}' already exists")

    # Views: the mappings that code written for torch.nn expects ----------------------------------

    @property
    def _parameters(self) -> Members:
        return Members(self.__dict__, self._kinds, PARAMETER)

    @_parameters.setter
    def _parameters(self, members: Mapping[str, Any]) -> None:
        self._replace_members(members, PARAMETER)

    @property
    def _buffers(self) -> Members:
        return Members(self.__dict__, self._kinds, BUFFER, TRANSIENT)

    @_buffers.setter
    def _buffers(self, members: Mapping[str, Any]) -> None:
        transient = {name for name, kind in self._kinds.items() if kind == TRANSIENT}
        self._replace_members(members, BUFFER, TRANSIENT)
        self._non_persistent_buffers_set = transient & set(members)

    _modules = ChildrenTable()

    @property
    def _non_persistent_buffers_set(self) -> TransientNames:
        return TransientNames(self._kinds)

    @_non_persistent_buffers_set.setter
    def _non_persistent_buffers_set(self, names: Iterable[str]) -> None:
        names = set(names)
        for name, kind in self._kinds.items():
            if kind in (BUFFER, TRANSIENT):
                self._kinds[name] = TRANSIENT if name in names else BUFFER

    @_non_persistent_buffers_set.deleter
    def _non_persistent_buffers_set(self) -> None:
        self._non_persistent_buffers_set = ()

    def _replace_members(self, members: Mapping[str, Any], *kinds: str) -> None:
        # A new table instead of an edited one, which a shallow copy of the module may share.
        members = dict(members)
        for name, kind in self._kinds.items():
            if kind in kinds:
                self.__dict__.pop(name, None)
        kept = {name: kind for name, kind in self._kinds.items() if kind not in kinds}
        self.__dict__.update(members, _kinds=kept | dict.fromkeys(members, kinds[0]))
        self.__dict__.pop("_modules", None)

    def __dir__(self) -> list[str]:
        names = [*dir(type(self)), *self.__dict__]
        return sorted({name for name in names if not name[:1].isdigit()})


MODULE_TYPES: Final = (Store, torch.nn.Module)
MEMBER_TYPES: Final = (Store, Tensor, torch.nn.Module)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__torch_function__")


def _require_none(value: Any, target: str, expected: str) -> None:
    if value is not None:
        raise TypeError(f"cannot assign '{torch.typename(value)}' as {target} ({expected})")


def _after_hooks(hooks: Mapping[int, Any], module: Store, name: str, value: Any) -> Any:
    for hook in hooks.values():
        replacement = hook(module, name, value)
        if replacement is not None:
            value = replacement
    return value


def _takes_persistent(module: Store) -> bool:
    return "persistent" in inspect.signature(module.register_buffer).parameters


def _unexpected_arguments(owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if kwargs:
        return f"{owner}.__init__() got an unexpected keyword argument '{next(iter(kwargs))}'"
    return f"{owner}.__init__() takes 1 positional argument but {len(args) + 1} were given"


def _warn_of_hidden_modules(owner: str, name: str, value: list[Any] | dict[Any, Any]) -> None:
    first = next(iter(value.values() if isinstance(value, dict) else value), None)
    if isinstance(first, MODULE_TYPES):
        fix = "ModuleDict" if isinstance(value, dict) else "ModuleList"
        warnings.warn(
            f"{owner}.{name} is a plain {type(value).__name__} of modules: their parameters are "
            f"not trained, moved or saved. Write self.{name} = nn.{fix}(...), or use a tuple to "
            "hide them on purpose.",
            stacklevel=3,
        )
