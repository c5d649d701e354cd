"""Runs a file of PyTorch's own tests on modules of Cupola; needs PyTorch's source and expecttest.

    python scripts/torch_tests.py bridged pytorch/test/nn/test_parametrization.py
    python scripts/torch_tests.py bare pytorch/test/test_modules.py --slice 0/4

The form is `torch` (the file as it is), `bare`, or `bridged`: each module is bridged when it has
been made. For the last two, the file and torch's tables of layers are loaded with other imports:
their `torch.nn` is cupola.nn. Failed tests are printed, and how many had which outcome.
"""

import ast
import builtins
import inspect
import sys
import types
import unittest
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.testing._internal as internal
from torch.testing._internal import common_cuda, common_mkldnn, common_utils

from cupola import nn
from cupola.nn.layers import TWINS

TABLES = ("common_nn", "common_modules")  # of layers and their inputs
# Helpers of 2.6 that later versions do not have; on a CPU they say no, or change nothing.
REMOVED = (
    (common_cuda, "tf32_is_not_fp32", lambda: False),
    (common_mkldnn, "bf32_on_and_off", lambda *precision: lambda test: test),
    (common_utils, "skipIfMPSOnMacOS13", lambda test: test),
)
PROXIES = "torch_and_nn_of_the_tests"  # a builtin, so that rewritten imports find it


class Bridging(type):
    """The type of classes whose objects are bridged when they have been made."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        return nn.to_torch(made) if isinstance(made, nn.Module) else made


class BridgedLayer:
    """What tests see of a layer: its call makes a bridged one, a subclass makes bridged ones."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.__name__, self.__qualname__ = cls.__name__, cls.__qualname__
        self.__module__, self.__doc__ = cls.__module__, cls.__doc__
        self.__signature__ = inspect.signature(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return nn.to_torch(self.cls(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cls, name)

    def __mro_entries__(self, bases: Any) -> tuple[type]:
        return (bridging(self.cls),)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self.cls)

    def __subclasscheck__(self, cls: Any) -> bool:
        return issubclass(getattr(cls, "cls", cls), self.cls)

    def __eq__(self, other: Any) -> bool:
        cls = getattr(other, "cls", other)
        return cls in (self.cls, TWINS.get(self.cls)) or is_bridged_from(cls, self.cls)

    def __hash__(self) -> int:
        return hash(TWINS.get(self.cls, self.cls))


def is_bridged_from(cls: Any, original: type) -> bool:
    return getattr(cls, "__dict__", {}).get("bridged_from") is original


@cache
def bridging(cls: type) -> type:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    own = type(cls)  # ABCMeta, for layers that have other classes as subclasses
    kind = Bridging if issubclass(Bridging, own) else type("Bridging", (Bridging, own), {})
    return kind(cls.__name__, (cls,), names)


class Proxy(types.ModuleType):
    """A module whose attributes a function looks up."""

    def __init__(self, name: str, find: Callable[[str], Any]) -> None:
        super().__init__(name)
        self.__dict__["find"] = find

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = self.find(name)
        return value


def proxies(form: str) -> tuple[Proxy, Proxy]:
    """torch and torch.nn as the tests import them."""

    def find_in_nn(name: str) -> Any:
        if name == "modules":
            return Proxy("torch.nn.modules", find_in_modules)
        value = getattr(nn, name, None) or getattr(torch.nn, name)
        if form == "bridged" and isinstance(value, type) and issubclass(value, nn.Module):
            return bridging(value) if value is nn.Module else BridgedLayer(value)
        return value

    def find_in_modules(name: str) -> Any:
        is_layer = isinstance(getattr(torch.nn, name, None), type)
        return getattr(library, name) if is_layer else getattr(torch.nn.modules, name)

    library = Proxy("torch.nn", find_in_nn)
    whole = Proxy("torch", lambda name: getattr(torch, name))
    whole.__dict__["nn"] = library
    return whole, library


class Imports(ast.NodeTransformer):
    """Replaces torch and torch.nn in import statements by the proxies."""

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        kept, found = [], []
        for alias in node.names:
            if alias.name == "torch.nn" and alias.asname:
                found.append(f"{alias.asname} = {PROXIES}[1]")
                continue
            kept.append(alias)
            if alias.name.partition(".")[0] == "torch" and not alias.asname:
                found.append(f"torch = {PROXIES}[0]")
            elif alias.name == "torch":
                found.append(f"{alias.asname} = {PROXIES}[0]")
        first: list[ast.stmt] = [ast.Import(kept)] if kept else []
        return self.placed(first + ast.parse("\n".join(found)).body, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.module in ("torch.nn", "torch.nn.modules"):
            taken, kept = node.names, []
            source = f"{PROXIES}[1]"
        elif node.module == "torch":
            taken = [alias for alias in node.names if alias.name == "nn"]
            kept = [alias for alias in node.names if alias.name != "nn"]
            source = f"{PROXIES}[0]"
        else:
            return node
        found = "\n".join(f"{it.asname or it.name} = {source}.{it.name}" for it in taken)
        first: list[ast.stmt] = [ast.ImportFrom(node.module, kept, 0)] if kept else []
        return self.placed(first + ast.parse(found).body, node)

    def placed(self, statements: list[ast.stmt], node: ast.stmt) -> list[ast.stmt]:
        return [ast.copy_location(statement, node) for statement in statements]


def load(name: str, path: Path, form: str) -> types.ModuleType:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    if form != "torch":
        tree = ast.fix_missing_locations(Imports().visit(tree))
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = str(path)
    exec(compile(tree, path, "exec"), module.__dict__)
    return module


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        else:
            yield test


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=("torch", "bare", "bridged"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--slice", default="0/1", help="of N parts the one with number I: I/N")
    parser.add_argument("--tables", type=Path, help="the folder of tables; default: torch's own")
    given = parser.parse_args()
    path = given.file.resolve()
    sys.argv = [str(path)]  # torch's helpers read the arguments of a test file
    sys.path.insert(0, str(next(it for it in path.parents if it.name == "test")))
    for module, name, stand_in in REMOVED:
        if not hasattr(module, name):
            setattr(module, name, stand_in)
    setattr(builtins, PROXIES, proxies(given.form))
    for name in TABLES if given.form != "torch" or given.tables else ():
        full = f"{internal.__name__}.{name}"
        folder = given.tables or Path(internal.__file__).parent
        setattr(internal, name, load(full, folder / f"{name}.py", given.form))
    found = unittest.defaultTestLoader.loadTestsFromModule(load(path.stem, path, given.form))
    part, parts = map(int, given.slice.split("/"))
    suite = unittest.TestSuite(list(cases(found))[part::parts])
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    failed = {getattr(it, "test_case", it).id() for it, _ in (*result.failures, *result.errors)}
    counts = {"skipped": len(result.skipped)}
    counts["failed"] = len(failed) + len(result.unexpectedSuccesses)
    counts["passed"] = result.testsRun - sum(counts.values())
    print(given.form, path.stem, counts)


if __name__ == "__main__":
    main()
