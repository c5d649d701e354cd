"""Reads a Python config file: carries out its statements on the syntax tree."""
# ruff: noqa: N802 - methods are named after the node classes that they carry out

import ast
from collections.abc import Callable
from typing import Any

from cupola.config.dicts import ConfigDict, TracedDict
from cupola.config.evaluate import Expressions, LocatedConfigError, explained, shown, words
from cupola.config.functions import Functions, Module
from cupola.config.lazy import LazyName
from cupola.errors import ConfigError

BASE = "_base_"
# Reads the module of `with read_base(): from MODULE import ...`; gets dots and path,
# returns its variables and which of their names are imports.
ReadBase = Callable[[int, str], tuple[ConfigDict, set[str]]]


class PythonFile(Expressions):
    """Evaluates the statements of one file; `names` holds what it has assigned.

    Every method named `do_` and a node class of `ast` carries that statement out; a statement
    without a method is refused with its name and line.
    """

    def __init__(
        self, file: str, names: dict[str, Any], functions: Functions, read_base: ReadBase
    ) -> None:
        super().__init__(file, names, functions)
        self.lines: dict[str, int] = {}  # name -> line of its last assignment
        self.imported: set[str] = set()  # names that are imports and not data
        self.constants: set[str] = set()  # numbers and texts imported from Python's library
        self._read_base = read_base

    def run(self, body: list[ast.stmt]) -> None:
        """Carries out statements in order."""
        for statement in body:
            self.budget.step()
            do = getattr(self, f"do_{type(statement).__name__}", None)
            if do is None:
                raise self.error(statement, f"{words(statement)} is not allowed in a config")
            try:
                do(statement)
            except LocatedConfigError:
                raise
            except RecursionError:
                raise self.error(statement, "statements are nested too deep") from None
            except Exception as error:
                raise self.error(statement, explained(error)) from None

    # -- assignments ---------------------------------------------------------------------------

    def do_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], ast.Name) and node.targets[0].id == BASE:
            return  # read before everything else, by the reader
        value = self.value(node.value)
        for target in node.targets:
            self.assign(target, value)

    def do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.value(node.value))

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            old = self.value(node.target)
            made = self.operators.in_place(node.op, old, self.value(node.value))
            self.assign(node.target, made)
        else:
            owner, key = self._element(node.target)
            old = owner[key]
            made = self.operators.in_place(node.op, old, self.value(node.value))
            self._put(owner, key, made, node.target)

    def assign(self, target: ast.expr, value: Any) -> None:
        """Assigns to a name, an element, an attribute of a base's dict, or a tuple of those."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            self.lines[target.id] = target.lineno
            self.defined.pop(target.id, None)
        elif isinstance(target, ast.Tuple | ast.List):
            for each, item in self.unpack(target, value):
                self.assign(each, item)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            owner, key = self._element(target)
            self._put(owner, key, value, target)
        else:
            raise ConfigError(f"{words(target)} is not allowed in a config")

    def _put(self, owner: Any, key: Any, value: Any, target: ast.expr) -> None:
        if isinstance(owner, list) and isinstance(key, slice):
            value = list(self.budget.iterate(value))
            self.budget.charge(len(owner) // 64)
        if isinstance(owner, ConfigDict):
            self.budget.weigh(value)  # it is copied, with every dict as a ConfigDict
        owner[key] = value
        if isinstance(owner, TracedDict):
            owner.origins[key] = self.origin(target)

    def _element(self, target: ast.Subscript | ast.Attribute) -> tuple[Any, Any]:
        owner = self.value(target.value)
        if isinstance(owner, Module):
            raise ConfigError("a module cannot be changed")
        if isinstance(target, ast.Subscript):
            if not isinstance(owner, dict | list):
                raise ConfigError(f"elements of a {type(owner).__name__} cannot be set")
            key = self.value(target.slice)
            self.budget.weigh(key)
            return owner, key
        if not isinstance(owner, ConfigDict) or target.attr.startswith("__"):
            raise ConfigError(f"the attribute .{target.attr} cannot be set")
        return owner, target.attr

    def do_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.value(target)  # raises if there is no such name
                self.names.pop(target.id, None)
            elif isinstance(target, ast.Subscript | ast.Attribute):
                owner, key = self._element(target)
                self.budget.charge(len(owner) // 64)
                del owner[key]
            else:
                raise ConfigError(f"`del {shown(target)}` is not allowed in a config")

    # -- control -------------------------------------------------------------------------------

    def do_Expr(self, node: ast.Expr) -> None:
        self.value(node.value)

    def do_Pass(self, node: ast.Pass) -> None:
        pass

    def do_If(self, node: ast.If) -> None:
        self.run(node.body if self.value(node.test) else node.orelse)

    def do_For(self, node: ast.For) -> None:
        for item in self.budget.iterate(self.value(node.iter)):
            self.assign(node.target, item)
            self.run(node.body)
        self.run(node.orelse)

    def do_Assert(self, node: ast.Assert) -> None:
        if not self.value(node.test):
            raise ConfigError(f"the config asserts {shown(node.test)}, which is false")

    def do_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A file may define functions, as some scripts among configs do, but not call them."""
        if node.decorator_list:
            raise ConfigError("a decorator is not allowed in a config")
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.value(default)
        self.names.pop(node.name, None)
        self.defined[node.name] = node.lineno

    # -- imports -------------------------------------------------------------------------------

    def do_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self._import(alias.asname, alias.name)
            else:
                top = alias.name.split(".")[0]
                self._import(top, top)

    def do_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                raise ConfigError("`import *` is allowed only inside `with read_base():`")
            owner = self.functions.modules.get(node.module or "") if not node.level else None
            name = alias.asname or alias.name
            if owner is None:
                self._import(name, f"{'.' * node.level}{node.module or ''}.{alias.name}")
                continue
            self.names[name] = self.member(owner, alias.name)
            is_data = isinstance(self.names[name], str | float)
            (self.constants if is_data else self.imported).add(name)

    def _import(self, name: str, path: str) -> None:
        self.names[name] = self.functions.modules.get(path) or LazyName(path)
        self.imported.add(name)

    def do_With(self, node: ast.With) -> None:
        """`with read_base():` - the only context manager that a config knows."""
        call = node.items[0].context_expr
        name = call.func if isinstance(call, ast.Call) else None
        if not isinstance(name, ast.Name) or name.id != "read_base" or len(node.items) > 1:
            raise ConfigError("`with` is allowed only as `with read_base():`")
        for statement in node.body:
            if not isinstance(statement, ast.ImportFrom) or statement.module is None:
                raise self.error(
                    statement, "only `from X import Y` is allowed in `with read_base():`"
                )
            base, imported = self._read_base(statement.level, statement.module)
            for alias in statement.names:
                if alias.name != "*" and alias.name not in base:
                    raise self.error(statement, f"the base has no variable {alias.name!r}")
                self._take(base, imported, alias)

    def _take(self, base: ConfigDict, imported: set[str], alias: ast.alias) -> None:
        picked = base if alias.name == "*" else {alias.asname or alias.name: base[alias.name]}
        self.names.update(picked)
        self.imported |= imported
