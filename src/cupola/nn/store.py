"""Storage of a module's members, and the rules of assignment.

Parameters, buffers and children are in torch.nn's three tables, and also in the instance's own
``__dict__`` under their names, so reading one costs as much as reading any attribute.
"""

import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter
from torch.nn.modules.module import _global_module_registration_hooks

from cupola.nn.class_checks import ClassChecks, TorchModule
from cupola.nn.members import BUFFERS, KINDS, MODULES, PARAMETERS, TRANSIENT, Lazy, Table, table_of

# Values of these exact types are never members; checking the type is the fastest way to know.
PLAIN_TYPES: Final = frozenset({int, float, bool, str, bytes, type(None), tuple, torch.dtype})
NO_SLOT: Final = PLAIN_TYPES - {type(None)}  # an attribute with such a value is no member either

# What is called with each module that is constructed: a build counts them before it goes on.
creation_watcher: ContextVar[Callable[["Store"], None] | None] = ContextVar(
    "creation_watcher", default=None
)


class Store(ClassChecks):
    """An object whose attributes follow the rules of a module: the base class of this package."""

    call_super_init: bool = False

    _parameters: Any = Lazy(Table.of)
    _buffers: Any = Lazy(Table.of)
    _modules: Any  # a table that every module has
    _non_persistent_buffers_set: Any = Lazy(lambda module: set())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            raise TypeError(_unexpected_arguments(type(self).__name__, args, kwargs))
        if (watcher := creation_watcher.get()) is not None:
            watcher(self)
        children = Table()
        children.owner = ref(self)
        # CPython reads attributes faster from a dictionary that was assigned than from one that
        # shares its keys with those of other instances.
        early = self.__dict__
        _set_dict(self, {**early, MODULES: children} if early else {MODULES: children})
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Store a member or an ordinary attribute. A member before ``__init__`` has run raises
        AttributeError; another value for the name of a member, TypeError."""
        if type(value) in PLAIN_TYPES and type(self.__dict__.get(name, 0)) in NO_SLOT:
            object.__setattr__(self, name, value)
            return
        if type(value) is Parameter and name not in self.__dict__ and MODULES in self.__dict__:
            self.register_parameter(name, value)  # the shortest way for what layers assign
            return
        kind = _kind_of(self, name)
        if kind is not None or isinstance(value, MEMBER_TYPES):
            _assign_member(self, name, value, kind)
        elif name in KINDS:
            _replace_table(self, name, value)
        elif name == "__dict__":  # perhaps that of another module, whose tables are its own
            object.__setattr__(self, name, {})
            self.__setstate__(value)
        else:
            if type(value) in (list, dict) and not name.startswith("_"):
                _warn_of_hidden_modules(type(self).__name__, name, value)
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        kind = _kind_of(self, name)
        if kind is not None:
            _remove(self, name, kind)
        elif name == "training" or isinstance(getattr(type(self), name, None), Lazy):
            self.__dict__.pop(name, None)  # the class has the default
        else:
            object.__delattr__(self, name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or a slot that holds None. Raises TypeError for another type, KeyError
        for a name that is empty, has a dot or is taken, ValueError for an operation's result."""
        _require_init(self, "parameter")
        _table(self, PARAMETERS)  # torch looks for it in __dict__
        TorchModule.register_parameter(self, name, param)  # type: ignore[arg-type]

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not a parameter; ``persistent=False`` keeps it out of the
        state dict. Raises like :meth:`register_parameter`."""
        _require_init(self, "buffer")
        _table(self, BUFFERS)
        TorchModule.register_buffer(self, name, tensor, persistent)  # type: ignore[arg-type]

    def add_module(self, name: str, module: Any) -> None:
        """Add a child, or a slot that holds None. Raises like :meth:`register_parameter`."""
        if module is not None and not isinstance(module, MODULE_TYPES):
            raise TypeError(f"{torch.typename(module)} is not a Module subclass")
        if not isinstance(name, str):
            raise TypeError(f"module name should be a string. Got {torch.typename(name)}")
        if "." in name or name == "":
            what = f'contain ".", got: {name}' if name else 'be empty string ""'
            raise KeyError(f"module name can't {what}")
        if hasattr(self, name) and name not in table_of(self, MODULES):
            raise KeyError(f"attribute '{name}' already exists")
        _keep_module(self, name, module)

    register_module: Callable[..., None] = TorchModule.register_module

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes as a torch module has them: members are in the tables alone."""
        take_tables(self)
        state = self.__dict__.copy()
        state.pop("_compiled_call_impl", None)
        for kind in KINDS:
            if kind in state:
                table = state[kind] = dict(state[kind])
                for name in [name for name, it in table.items() if state.get(name, self) is it]:
                    del state[name]
        if TRANSIENT in state:
            state[TRANSIENT] = state[TRANSIENT].copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a cupola or torch module."""
        values = self.__dict__
        if MODULES not in values:  # a new object
            values = {**values}
            _set_dict(self, values)
        kinds = [kind for kind in KINDS if kind in state]
        for kind in kinds:
            values.update(state[kind])
        values.update(state)
        for kind in kinds:
            values[kind] = Table.of(self, state[kind])

    def __dir__(self) -> list[str]:
        names = [*dir(type(self)), *self.__dict__]
        return sorted({name for name in names if not name[:1].isdigit()})


_set_dict: Final = ClassChecks.__dict__["__dict__"].__set__
MODULE_TYPES: Final = (Store, TorchModule)
MEMBER_TYPES: Final = (Store, Tensor, TorchModule)
_REGISTER: Final = Store.register_buffer


def _assign_member(module: Store, name: str, value: Any, kind: str | None) -> None:
    if isinstance(value, Store) and kind != PARAMETERS:
        if kind != MODULES:
            _forget(module, name, kind)
        _keep_module(module, name, value)
    elif isinstance(value, Parameter):
        _require_init(module, "parameters")
        if kind != PARAMETERS:
            _forget(module, name, kind)
        module.register_parameter(name, value)
    elif kind is None and not isinstance(value, (Buffer, TorchModule)):
        object.__setattr__(module, name, value)
    elif kind == BUFFERS and type(value) is Tensor and type(module).register_buffer is _REGISTER:
        persistent = getattr(value, "persistent", name not in table_of(module, TRANSIENT))
        module.register_buffer(name, value, persistent)
    else:
        TorchModule.__setattr__(module, name, value)  # type: ignore[arg-type]


def _keep_module(module: Store, name: str, value: Any) -> None:
    _require_init(module, "module")
    for hook in _global_module_registration_hooks.values():
        replacement = hook(module, name, value)
        value = value if replacement is None else replacement
    keep(module, name, value, MODULES)


def _kind_of(module: Store, name: str) -> str | None:
    values = module.__dict__
    for kind in KINDS:
        if name in values.get(kind, ()):
            return kind
    return None


def _table(module: Store, kind: str) -> Table:
    table = getattr(module, kind)
    if type(table) is not Table or table.owner() is not module:  # of a copied __dict__
        module.__dict__.update(table)
        table = module.__dict__[kind] = Table.of(module, table)
    return table


def take_tables(module: Store) -> None:
    """Make tables that were copied from the `__dict__` of a torch module the module's own."""
    if type(module.__dict__.get(MODULES)) is dict:
        module.__setstate__(module.__dict__)


def keep(module: Store, name: str, value: Any, kind: str) -> None:
    """Put a member into a table and among the attributes, without the rules of assignment."""
    dict.__setitem__(_table(module, kind), name, value)
    module.__dict__[name] = value


def _forget(module: Store, name: str, kind: str | None) -> None:
    """Remove the member or attribute of a name, if there is one."""
    if kind is not None:
        _remove(module, name, kind)
    module.__dict__.pop(name, None)


def _remove(module: Store, name: str, kind: str) -> None:
    del _table(module, kind)[name]
    if TRANSIENT in module.__dict__:
        module._non_persistent_buffers_set.discard(name)


def _replace_table(module: Store, kind: str, members: Mapping[str, Any]) -> None:
    table, values = Table.of(module, members), module.__dict__
    for name, value in table_of(module, kind).items():
        if values.get(name) is value:
            del values[name]
    values.update(table)
    values[kind] = table


def _require_init(module: Store, what: str) -> None:
    if MODULES not in module.__dict__:
        raise AttributeError(f"cannot assign {what} before Module.__init__() call")


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
