"""The operators of a config: those of Python on plain data, each paid for."""

import ast
import operator
from collections.abc import Callable, ItemsView, Iterator, KeysView
from typing import Any

from cupola.config.budget import Budget
from cupola.config.dicts import TracedDict
from cupola.config.lazy import LazyName
from cupola.config.texts import Texts
from cupola.errors import ConfigError

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
_IN_PLACE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Sub: operator.isub,
    ast.BitAnd: operator.iand,
    ast.BitOr: operator.ior,
    ast.BitXor: operator.ixor,
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
_SEQUENCES = (str, bytes, list, tuple)
_CONTAINERS = (*_SEQUENCES, set, frozenset, dict, range)
_NUMBERS = (int, float, complex, type(None))
_ONE_OF_A_KIND = (bool, type(None), list, dict, set, LazyName)  # where `is` has one answer


class Operators:
    """The operators of one evaluation."""

    def __init__(self, budget: Budget, texts: Texts) -> None:
        self._budget = budget
        self._texts = texts

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        """`left op right`, refused when the result would be too large."""
        kind = type(op)
        if isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS):
            self._check_numbers(kind, left, right)
            return self._budget.pay(_BINARY[kind](left, right))
        for side in (left, right):
            if not isinstance(side, _CONTAINERS + _NUMBERS):
                raise ConfigError(f"an operation on a {type(side).__name__} is not allowed")
        if kind is ast.Mod and isinstance(left, str | bytes):
            return self._texts.percent(left, right)
        self._charge(kind, left, right)
        if kind is ast.BitOr and isinstance(left, TracedDict) and isinstance(right, dict):
            made = left.copy()
            made.update(right)
            return made
        return _BINARY[kind](left, right)

    def in_place(self, op: ast.operator, left: Any, right: Any) -> Any:
        """`left op= right`: lists, sets and dicts change where they are, as in Python."""
        kind = type(op)
        if isinstance(left, list) and kind is ast.Add:
            left.extend(list(self._budget.iterate(right)))
        elif isinstance(left, list) and kind is ast.Mult and isinstance(right, int):
            self._charge(kind, left, right)
            left *= right
        elif isinstance(left, dict) and kind is ast.BitOr:
            pairs = right if isinstance(right, dict) else list(self._budget.iterate(right))
            self._budget.weigh(pairs)
            left.update(pairs)
        elif isinstance(left, set) and isinstance(right, set) and kind in _IN_PLACE:
            self._charge(kind, left, right)
            left = _IN_PLACE[kind](left, right)
        else:
            return self.binary(op, left, right)
        return left

    def _check_numbers(self, kind: type, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            if kind is ast.Pow:
                self._budget.check_int(bits * max(right, 1))
            elif kind is ast.LShift:
                self._budget.check_int(bits + max(right, 0))
            elif kind is ast.Mult:
                self._budget.check_int(bits + right.bit_length())

    def _charge(self, kind: type, left: Any, right: Any) -> None:
        """Pays for the result of an operator on containers."""
        sizes = [len(each) for each in (left, right) if isinstance(each, _SEQUENCES)]
        times = [each for each in (left, right) if isinstance(each, int)]
        if kind is ast.Mult and sizes and times:
            self._budget.charge(sizes[0] * max(times[0], 0))
        elif len(sizes) == 2:
            self._budget.charge(sum(sizes))
        else:  # sets and dicts compare their elements
            self._budget.weigh((left, right))

    def unary(self, op: ast.unaryop, value: Any) -> Any:
        """`op value`."""
        return _UNARY[type(op)](value)

    def compare(self, op: ast.cmpop, left: Any, right: Any) -> Any:
        """`left op right`, after paying for a walk through both."""
        kind = type(op)
        if kind in (ast.Is, ast.IsNot):
            if not isinstance(left, _ONE_OF_A_KIND) and not isinstance(right, _ONE_OF_A_KIND):
                raise ConfigError(f"`is` on a {type(left).__name__} is not allowed; use ==")
            return _COMPARE[kind](left, right)
        if kind in (ast.In, ast.NotIn):
            self._budget.weigh(left)
            return _COMPARE[kind](left, self._searchable(left, right))
        for side in (left, right):
            if not isinstance(side, (*_CONTAINERS, *_NUMBERS, LazyName)):
                raise ConfigError(f"a comparison of a {type(side).__name__} is not allowed")
            self._budget.weigh(side)
        return _COMPARE[kind](left, right)

    def _searchable(self, left: Any, right: Any) -> Any:
        """What `left in right` may search: what it would walk through is paid for."""
        if isinstance(right, dict | set | frozenset) or (
            isinstance(right, range) and isinstance(left, int)
        ):
            return right
        if isinstance(right, KeysView | ItemsView):
            self._budget.weigh(right.mapping)  # type: ignore[union-attr]
            return right
        if isinstance(right, str | bytes | list | tuple):
            self._budget.weigh(right)
            return right
        return self._weighed(right)

    def _weighed(self, items: Any) -> Iterator[Any]:
        for item in self._budget.iterate(items):
            self._budget.weigh(item)
            yield item
