"""Renames state-dict keys between two spellings, in either direction, with one table."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

Pair = tuple[str, str]
Rule = tuple[re.Pattern[str], str]


class Renaming:
    """Pairs of key prefixes (ours, theirs); `#` stands for a number, the rest of a key stays.

    The first pair that matches at a dot wins, so longer prefixes come first. Patterns are compiled
    when they are first needed: most checkpoints are of one dialect, or of our own names.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._pairs = tuple(pairs)

    @cached_property
    def _to_theirs(self) -> list[Rule]:
        return [_rule(ours, theirs) for ours, theirs in self._pairs]

    @cached_property
    def _to_ours(self) -> list[Rule]:
        return [_rule(theirs, ours) for ours, theirs in self._pairs]

    def to_ours(self, key: str) -> str | None:
        """Our name of their key, or None where no pair matches."""
        return _apply(self._to_ours, key)

    def to_theirs(self, key: str) -> str | None:
        """Their name of our key, or None where no pair matches."""
        return _apply(self._to_theirs, key)


def _rule(source: str, target: str) -> Rule:
    pattern = re.escape(source).replace(r"\#", "#").replace("#", r"(\d+)")
    groups = iter(range(1, source.count("#") + 1))
    template = re.sub("#", lambda _: rf"\g<{next(groups)}>", target)
    return re.compile(rf"{pattern}(?=\.|$)"), template


def _apply(rules: Sequence[Rule], key: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.match(key):
            return match.expand(template) + key[match.end() :]
    return None
