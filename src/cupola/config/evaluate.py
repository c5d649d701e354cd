"""Evaluates the expressions of a config file on its syntax tree; nothing is ever executed."""
# ruff: noqa: N802 - methods are named after the node classes that they evaluate

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dicts import ConfigDict, Origin, TracedDict
from cupola.config.functions import MODULES, Functions
from cupola.config.lazy import LazyName
from cupola.errors import ConfigError, did_you_mean

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_CONSTANTS = {"__name__": "config"}


class LocatedConfigError(ConfigError):
    """A ConfigError whose message already begins with file and line."""


class Expressions:
    """Evaluates expressions over `names`, the variables that the file has assigned so far.

    Every method named after a node class of `ast` evaluates that node; a node without a method
    is refused with its name and line.
    """

    def __init__(self, file: str, names: dict[str, Any], budget: Budget) -> None:
        self.file = file
        self.names = names
        self.budget = budget
        self.functions = Functions(budget)
        self._scopes: list[dict[str, Any]] = []  # variables of comprehensions, innermost last

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; ConfigError names file, line and construct."""
        if type(node) is ast.Constant:
            return node.value
        self.budget.step()
        evaluate = getattr(self, type(node).__name__, None)
        if evaluate is None:
            raise self.error(node, f"{type(node).__name__} is not allowed in a config")
        try:
            return evaluate(node)
        except LocatedConfigError:
            raise
        except ConfigError as error:
            raise self.error(node, str(error)) from None
        except RecursionError:
            raise self.error(node, "expressions are nested too deep") from None
        except Exception as error:
            raise self.error(node, f"{type(error).__name__}: {error}") from None

    def error(self, node: ast.AST, message: str) -> "LocatedConfigError":
        """The error to raise about a node: file and line first."""
        return LocatedConfigError(f"{self.file}:{getattr(node, 'lineno', 1)}: {message}")

    def origin(self, node: ast.AST) -> Origin:
        """The place of a node in this file."""
        return Origin(self.file, getattr(node, "lineno", 1))

    # -- displays ----------------------------------------------------------------------------

    def List(self, node: ast.List) -> list[Any]:
        return self._elements(node.elts)

    def Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._elements(node.elts))

    def Set(self, node: ast.Set) -> Any:
        return set(self._elements(node.elts))

    def Dict(self, node: ast.Dict) -> TracedDict:
        made = TracedDict()
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                self._spread(made, self.value(value))
            else:
                name = self.value(key)
                made[name] = self.value(value)
                made.origins[name] = self.origin(key)
        return made

    def JoinedStr(self, node: ast.JoinedStr) -> str:
        text = "".join(self.value(part) for part in node.values)
        self.budget.charge(len(text))
        return text

    def FormattedValue(self, node: ast.FormattedValue) -> str:
        value = self.value(node.value)
        self.budget.weigh(value)
        if isinstance(value, str):
            self.budget.charge(len(value))
        spec = self.value(node.format_spec) if node.format_spec else ""
        self.budget.check_format(spec)
        if node.conversion != -1:
            value = repr(value) if node.conversion == ord("r") else str(value)
        return format(value, spec)

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        made: list[Any] = []
        for node in nodes:
            if type(node) is ast.Constant:
                made.append(node.value)
            elif isinstance(node, ast.Starred):
                made.extend(self.budget.iterate(self.value(node.value)))
            else:
                made.append(self.value(node))
        return made

    def _spread(self, target: TracedDict, source: Mapping[Any, Any]) -> None:
        self.budget.charge(len(source))
        target.update(source)
        target.origins.update(getattr(source, "origins", {}))

    # -- operators ---------------------------------------------------------------------------

    def BinOp(self, node: ast.BinOp) -> Any:
        return self.binary(node.op, self.value(node.left), self.value(node.right))

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        """`left op right`, refused when the result would be too large."""
        if isinstance(left, int | float) and isinstance(right, int | float):
            self._check_numbers(op, left, right)
        else:
            self._check_sequences(op, left, right)
        return _BINARY[type(op)](left, right)

    def _check_numbers(self, op: ast.operator, left: float, right: float) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            if isinstance(op, ast.Pow):
                self.budget.check_int(bits * max(right, 1))
            elif isinstance(op, ast.LShift):
                self.budget.check_int(bits + max(right, 0))
            elif isinstance(op, ast.Mult):
                self.budget.check_int(bits + right.bit_length())

    def _check_sequences(self, op: ast.operator, left: Any, right: Any) -> None:
        sizes = [len(each) for each in (left, right) if hasattr(each, "__len__")]
        times = [each for each in (left, right) if isinstance(each, int)]
        if isinstance(op, ast.Mult) and sizes and times:
            self.budget.charge(sizes[0] * max(times[0], 0))
        elif isinstance(op, ast.Mod) and isinstance(left, str | bytes):
            self.budget.check_format(str(left).replace("%", ""))
            self.budget.weigh(right)
            if "*" in str(left):
                raise ConfigError("a format width that is computed")
        else:
            self.budget.charge(sum(sizes))

    def UnaryOp(self, node: ast.UnaryOp) -> Any:
        return _UNARY[type(node.op)](self.value(node.operand))

    def BoolOp(self, node: ast.BoolOp) -> Any:
        stop_at = isinstance(node.op, ast.Or)
        value = None
        for each in node.values:
            value = self.value(each)
            if bool(value) is stop_at:
                break
        return value

    def Compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for op, each in zip(node.ops, node.comparators, strict=True):
            right = self.value(each)
            for side in (left, right):
                self.budget.weigh(side)
            if isinstance(op, ast.In | ast.NotIn):
                right = self._searchable(left, right)
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _searchable(self, left: Any, right: Any) -> Any:
        """What `left in right` may search: what it would walk through is paid for."""
        if isinstance(right, str | bytes | list | tuple | dict | set | frozenset):
            return right
        if isinstance(right, range) and isinstance(left, int):
            return right
        return list(self.budget.iterate(right))

    def IfExp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    # -- names, attributes, elements ---------------------------------------------------------

    def Name(self, node: ast.Name) -> Any:
        for scope in reversed(self._scopes):
            if node.id in scope:
                return scope[node.id]
        for table in (self.names, self.functions.table, _CONSTANTS):
            if node.id in table:
                return table[node.id]
        known = [*self.names, *self.functions.table]
        raise ConfigError(f"the name {node.id!r} is not defined{did_you_mean(node.id, known)}")

    def Attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        if node.attr.startswith("__"):
            raise ConfigError(f"the attribute .{node.attr} is not allowed")
        if isinstance(owner, LazyName):
            return owner.attribute(node.attr)
        if isinstance(owner, ConfigDict):
            return getattr(owner, node.attr) if node.attr in owner else self._no_key(owner, node)
        if isinstance(owner, dict) and any(owner is module for module in MODULES.values()):
            return owner[node.attr] if node.attr in owner else self._no_key(owner, node)
        raise ConfigError(f"the attribute .{node.attr} of a {type(owner).__name__} is not allowed")

    def _no_key(self, owner: Mapping[Any, Any], node: ast.Attribute) -> Any:
        known = [key for key in owner if isinstance(key, str)]
        raise ConfigError(f"no key {node.attr!r} here{did_you_mean(node.attr, known)}")

    def Subscript(self, node: ast.Subscript) -> Any:
        return self.value(node.value)[self.value(node.slice)]

    def Slice(self, node: ast.Slice) -> slice:
        parts = (node.lower, node.upper, node.step)
        return slice(*(self.value(part) if part else None for part in parts))

    # -- calls and comprehensions --------------------------------------------------------------

    def Call(self, node: ast.Call) -> Any:
        args = self._elements(node.args)
        if isinstance(node.func, ast.Name) and self.Name(node.func) is TracedDict:
            return self._call_dict(node, args)
        kwargs = self._keywords(node)
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if not isinstance(owner, LazyName) and not self._is_module(owner):
                made = self.functions.call_method(owner, node.func.attr, args, dict(kwargs))
                self._trace_update(owner, node.func.attr, args, kwargs)
                return made
        function = self.value(node.func)
        if not self.functions.is_allowed(function):
            raise ConfigError(f"a call of {ast.unparse(node.func)[:60]} is not allowed")
        return self.functions.call(function, args, dict(kwargs))

    def _is_module(self, owner: Any) -> bool:
        return any(owner is module for module in MODULES.values())

    def _call_dict(self, node: ast.Call, args: list[Any]) -> TracedDict:
        if not args:
            return self._keywords(node)
        if len(args) > 1:
            raise ConfigError("dict() takes at most one positional argument")
        made = TracedDict()
        source = args[0]
        pairs = source if isinstance(source, Mapping) else dict(self.budget.iterate(source))
        self._spread(made, pairs)
        self._spread(made, self._keywords(node))
        return made

    def _keywords(self, node: ast.Call) -> TracedDict:
        made = TracedDict()
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg is None:
                self._spread(made, value)
            else:
                made[keyword.arg] = value
                made.origins[keyword.arg] = Origin(self.file, keyword.lineno)
        return made

    def _trace_update(self, owner: Any, method: str, args: list[Any], kwargs: TracedDict) -> None:
        if method == "update" and isinstance(owner, TracedDict):
            for source in (*args, kwargs):
                owner.origins.update(getattr(source, "origins", {}))

    def ListComp(self, node: ast.ListComp) -> list[Any]:
        made: list[Any] = []
        self._comprehend(node.generators, lambda: made.append(self.value(node.elt)))
        return made

    def SetComp(self, node: ast.SetComp) -> set[Any]:
        return set(self.ListComp(ast.ListComp(node.elt, node.generators)))

    def GeneratorExp(self, node: ast.GeneratorExp) -> list[Any]:
        return self.ListComp(ast.ListComp(node.elt, node.generators))

    def DictComp(self, node: ast.DictComp) -> TracedDict:
        made = TracedDict()

        def add() -> None:
            key = self.value(node.key)
            made[key] = self.value(node.value)
            made.origins[key] = self.origin(node)

        self._comprehend(node.generators, add)
        return made

    def _comprehend(self, generators: list[ast.comprehension], emit: Callable[[], None]) -> None:
        first, rest = generators[0], generators[1:]
        items = self.budget.iterate(self.value(first.iter))
        self._scopes.append({})
        try:
            for item in items:
                self.bind(first.target, item, self._scopes[-1])
                if all(self.value(test) for test in first.ifs):
                    if rest:
                        self._comprehend(rest, emit)
                    else:
                        emit()
        finally:
            self._scopes.pop()

    def bind(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        """Assigns `value` to a name or, piece by piece, to a tuple of names."""
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = list(self.budget.iterate(value))
            if len(values) != len(target.elts):
                raise ConfigError(f"{len(target.elts)} names for {len(values)} values")
            for each, item in zip(target.elts, values, strict=True):
                self.bind(each, item, names)
        else:
            raise ConfigError(f"an assignment to {type(target).__name__} is not allowed here")
