"""Loads peers whose optional imports are missing: named packages become empty modules.

Only what a peer imports and the benched code never calls may be named here.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Nothing:
    """Stands for any class, function or decorator of an absent package."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        decorated = len(args) == 1 and callable(args[0]) and not kwargs
        return args[0] if decorated else Nothing()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __mro_entries__(self, bases: tuple[type, ...]) -> tuple[type, ...]:
        return (object,)

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __getitem__ = __or__


class EmptyModule(types.ModuleType):
    """A module in which every name exists."""

    __path__: Sequence[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the named packages, after all real ones."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return EmptyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def peer_folder(folder: Path, absent: Sequence[str]) -> None:
    """Puts a folder of installed peers behind everything else, and empties what they lack."""
    sys.path.append(str(folder))
    sys.meta_path.append(EmptyModules(absent))
