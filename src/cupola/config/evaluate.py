"""Evaluates the expressions of a config file on its syntax tree; nothing is ever executed."""
# ruff: noqa: N802 - methods are named after the node classes that they evaluate

import ast
import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cupola.config.dicts import ConfigDict, Origin, TracedDict
from cupola.config.functions import Functions, Module
from cupola.config.lazy import LazyName
from cupola.config.operators import Operators
from cupola.config.streams import Stream
from cupola.errors import ConfigError, did_you_mean

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "a": ascii, "s": str}
_CONSTANTS = {"__name__": "config"}
_ENVIRONMENT = ["environ", "environb", "getenv"]
# What a person calls the nodes of `ast` that a config may not hold.
_WORDS = {
    "AsyncFor": "an async loop",
    "AsyncFunctionDef": "an async function",
    "AsyncWith": "an async with",
    "Await": "await",
    "Break": "break",
    "ClassDef": "a class definition",
    "Continue": "continue",
    "Global": "a global statement",
    "Lambda": "a lambda",
    "Match": "a match statement",
    "NamedExpr": "an assignment inside an expression (`:=`)",
    "Nonlocal": "a nonlocal statement",
    "Raise": "a raise statement",
    "Return": "return outside a function",
    "Starred": "a starred name (`*name`)",
    "Try": "a try statement",
    "TryStar": "a try statement",
    "While": "a while loop",
    "Yield": "yield",
    "YieldFrom": "yield",
}
_MAX_TEXT = 300  # characters of Python's own messages, which may hold whole values


def words(node: ast.AST) -> str:
    """The usual name of a node."""
    return _WORDS.get(type(node).__name__, type(node).__name__)


def shown(node: ast.expr) -> str:
    """The source of a short expression."""
    ends = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    is_short = ends[0] - node.lineno < 3 and ends[1] - node.col_offset < _MAX_TEXT
    return ast.unparse(node)[:80] if is_short else "an expression"


def explained(error: Exception) -> str:
    """The message of an exception, bounded."""
    text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


class LocatedConfigError(ConfigError):
    """A ConfigError whose message already begins with file and line."""


class Expressions:
    """Evaluates expressions over `names`, the variables that the file has assigned so far.

    Every method named after a node class of `ast` evaluates that node; a node without a method
    is refused with its name and line.
    """

    def __init__(self, file: str, names: dict[str, Any], functions: Functions) -> None:
        self.file = file
        self.names = names
        self.functions = functions
        self.budget = functions.budget
        self.operators = Operators(self.budget, functions.texts)
        self.defined: dict[str, int] = {}  # function -> line of its definition
        self._scopes: list[dict[str, Any]] = []  # variables of comprehensions, innermost last

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; ConfigError names file, line and construct."""
        if type(node) is ast.Constant:
            return node.value
        self.budget.step()
        evaluate = getattr(self, type(node).__name__, None)
        if evaluate is None:
            raise self.error(node, f"{words(node)} is not allowed in a config")
        try:
            return evaluate(node)
        except LocatedConfigError:
            raise
        except RecursionError:
            raise self.error(node, "expressions are nested too deep") from None
        except Exception as error:
            raise self.error(node, explained(error)) from None

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
        return {self._key(each) for each in self._elements(node.elts)}

    def Dict(self, node: ast.Dict) -> TracedDict:
        made = TracedDict()
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                self._spread(made, self.value(value))
            else:
                name = self._key(self.value(key))
                made[name] = self.value(value)
                made.origins[name] = self.origin(key)
        return made

    def _key(self, key: Any) -> Any:
        """A key or an element of a set, whose hash walks through all of it."""
        self.budget.weigh(key)
        return key

    def JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join([self.value(part) for part in node.values])

    def FormattedValue(self, node: ast.FormattedValue) -> str:
        value = self.value(node.value)
        spec = self.value(node.format_spec) if node.format_spec else ""
        self.budget.weigh(value, as_text=True)
        self.budget.check_format(spec)
        if node.conversion != -1:
            value = _CONVERSIONS[chr(node.conversion)](value)
        return self.budget.pay(format(value, spec))

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
        if not isinstance(source, Mapping):
            raise TypeError(f"{type(source).__name__!r} object is not a mapping")
        self.budget.charge(len(source))
        target.update(source)
        target.origins.update(getattr(source, "origins", {}))

    # -- operators ---------------------------------------------------------------------------

    def BinOp(self, node: ast.BinOp) -> Any:
        return self.operators.binary(node.op, self.value(node.left), self.value(node.right))

    def UnaryOp(self, node: ast.UnaryOp) -> Any:
        return self.operators.unary(node.op, self.value(node.operand))

    def BoolOp(self, node: ast.BoolOp) -> Any:
        stop_at = isinstance(node.op, ast.Or)
        value = None
        for each in node.values:
            value = self.value(each)
            if bool(value) is stop_at:
                break
        return value

    def Compare(self, node: ast.Compare) -> Any:
        left = self.value(node.left)
        found: Any = True
        for op, each in zip(node.ops, node.comparators, strict=True):
            right = self.value(each)
            found = self.operators.compare(op, left, right)
            if not found:
                break
            left = right
        return found

    def IfExp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    # -- names, attributes, elements ---------------------------------------------------------

    def Name(self, node: ast.Name) -> Any:
        for scope in reversed(self._scopes):
            if node.id in scope:
                return scope[node.id]
        if node.id in self.names:
            return self.names[node.id]
        if node.id in self.defined:
            raise ConfigError(
                f"{node.id!r} is a function that this config defines on line "
                f"{self.defined[node.id]}; functions of a config are never called, so write "
                "the value itself"
            )
        for table in (self.functions.table, _CONSTANTS):
            if node.id in table:
                return table[node.id]
        if hasattr(builtins, node.id):
            raise ConfigError(
                f"Python's {node.id!r} is not available in a config, which is read as data"
            )
        known = [*self.names, *self.functions.table]
        raise ConfigError(f"the name {node.id!r} is not defined{did_you_mean(node.id, known)}")

    def Attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        if node.attr.startswith("__"):
            raise ConfigError(f"the attribute .{node.attr} is not allowed")
        if isinstance(owner, LazyName):
            return owner.attribute(node.attr)
        if isinstance(owner, Module):
            return self.member(owner, node.attr)
        if not isinstance(owner, ConfigDict):
            kind = type(owner).__name__
            raise ConfigError(f"the attribute .{node.attr} of a {kind} is not allowed")
        if node.attr not in owner:
            known = [key for key in owner if isinstance(key, str)]
            raise ConfigError(f"no key {node.attr!r} here{did_you_mean(node.attr, known)}")
        return owner[node.attr]

    def member(self, module: Module, name: str) -> Any:
        """The value of `module.name`."""
        if name in module.members:
            return module.members[name]
        if module.name == "os" and name in _ENVIRONMENT:
            raise ConfigError(
                f"os.{name} is not read; write '{{{{$NAME:default}}}}' for the environment "
                "variable NAME, and allow it with --env NAME"
            )
        offered = ", ".join(module.members)
        raise ConfigError(
            f"{module.name}.{name} is not allowed; a config may use of {module.name} only {offered}"
        )

    def Subscript(self, node: ast.Subscript) -> Any:
        owner = self.value(node.value)
        key = self.value(node.slice)
        self.budget.weigh(key)
        made = owner[key]
        return self.budget.pay(made) if type(key) is slice else made

    def Slice(self, node: ast.Slice) -> slice:
        parts = (node.lower, node.upper, node.step)
        return slice(*(self.value(part) if part else None for part in parts))

    # -- calls and comprehensions --------------------------------------------------------------

    def Call(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Attribute):
            owner = self.value(node.func.value)
            if not isinstance(owner, LazyName | Module):
                args, kwargs = self._elements(node.args), self._keywords(node)
                made = self.functions.call_method(owner, node.func.attr, args, dict(kwargs))
                self._trace_update(owner, node.func.attr, args, kwargs)
                return made
        function = self.value(node.func)
        if not self.functions.is_allowed(function):
            raise ConfigError(f"a call of {shown(node.func)} is not allowed")
        args, kwargs = self._elements(node.args), self._keywords(node)
        if function is self.functions.table["dict"] and not args:
            return kwargs
        made = self.functions.call(function, args, dict(kwargs))
        if isinstance(made, TracedDict):
            made.origins.update(kwargs.origins)
        return made

    def _keywords(self, node: ast.Call) -> TracedDict:
        made = TracedDict()
        origins = made.origins
        for keyword in node.keywords:
            name, value = keyword.arg, keyword.value
            if name is None:
                self._spread_keywords(made, self.value(value))
                continue
            if name in made:
                raise TypeError(f"the keyword argument {name!r} is given twice")
            made[name] = value.value if type(value) is ast.Constant else self.value(value)
            origins[name] = Origin(self.file, keyword.lineno)
        return made

    def _spread_keywords(self, made: TracedDict, source: Mapping[Any, Any]) -> None:
        before = len(made)
        self._spread(made, source)
        if len(made) != before + len(source) or not all(isinstance(key, str) for key in source):
            raise TypeError("a keyword argument is given twice, or is not a text")

    def _trace_update(self, owner: Any, method: str, args: list[Any], kwargs: TracedDict) -> None:
        if method == "update" and isinstance(owner, TracedDict):
            for source in (*args, kwargs):
                owner.origins.update(getattr(source, "origins", {}))

    def ListComp(self, node: ast.ListComp) -> list[Any]:
        return [self.value(node.elt) for _ in self._comprehend(node.generators)]

    def SetComp(self, node: ast.SetComp) -> set[Any]:
        return {self._key(self.value(node.elt)) for _ in self._comprehend(node.generators)}

    def GeneratorExp(self, node: ast.GeneratorExp) -> Stream:
        source = iter(self.value(node.generators[0].iter))
        return Stream(self._generate(node, source, list(self._scopes)), [source])

    def _generate(
        self, node: ast.GeneratorExp, source: Iterator[Any], own: list[dict[str, Any]]
    ) -> Iterator[Any]:
        """Each item when it is asked for, with the comprehension variables of the expression."""
        steps = self._comprehend(node.generators, source)
        while True:
            others, self._scopes = self._scopes, own
            try:
                next(steps)
                item = self.value(node.elt)
            except StopIteration:
                return
            finally:
                self._scopes = others
            yield item

    def DictComp(self, node: ast.DictComp) -> TracedDict:
        made = TracedDict()
        origin = self.origin(node)
        for _ in self._comprehend(node.generators):
            key = self._key(self.value(node.key))
            made[key] = self.value(node.value)
            made.origins[key] = origin
        return made

    def _comprehend(
        self, generators: list[ast.comprehension], source: Iterable[Any] | None = None
    ) -> Iterator[None]:
        """Stops once for each item that a comprehension makes, with its variables in scope."""
        first, rest = generators[0], generators[1:]
        if first.is_async:
            raise ConfigError("an async comprehension is not allowed in a config")
        items = self.budget.iterate(self.value(first.iter) if source is None else source)
        scope: dict[str, Any] = {}
        scopes = self._scopes  # an abandoned generator ends while others are current
        scopes.append(scope)
        try:
            for item in items:
                self.bind(first.target, item, scope)
                if all(self.value(test) for test in first.ifs):
                    if rest:
                        yield from self._comprehend(rest)
                    else:
                        yield
        finally:
            scopes.pop()

    def bind(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        """Assigns `value` to a name or, piece by piece, to a tuple of names."""
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for each, item in self.unpack(target, value):
                self.bind(each, item, names)
        else:
            raise ConfigError(f"an assignment to {shown(target)} is not allowed here")

    def unpack(self, target: ast.Tuple | ast.List, value: Any) -> Iterator[tuple[ast.expr, Any]]:
        """The targets of `a, b = value`, each with its item."""
        for each in target.elts:
            if isinstance(each, ast.Starred):
                raise self.error(each, f"{words(each)} is not allowed in a config")
        values = list(self.budget.iterate(value))
        if len(values) != len(target.elts):
            raise ConfigError(f"{len(target.elts)} names for {len(values)} values")
        return zip(target.elts, values, strict=True)
