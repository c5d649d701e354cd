"""Renames state-dict keys between two spellings, in either direction, with one table."""

import re
from collections.abc import Sequence

Pair = tuple[str, str]


class Renaming:
    """Pairs of key prefixes (ours, theirs); `#` stands for a number, the rest of a key stays.

    The first pair that matches at a dot wins, so longer prefixes come first.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._to_theirs = [_rule(ours, theirs) for ours, theirs in pairs]
        self._to_ours = [_rule(theirs, ours) for ours, theirs in pairs]

    def to_ours(self, key: str) -> str | None:
        """Our name of their key, or None where no pair matches."""
        return _apply(self._to_ours, key)

    def to_theirs(self, key: str) -> str | None:
        """Their name of our key, or None where no pair matches."""
        return _apply(self._to_theirs, key)


def _rule(source: str, target: str) -> tuple[re.Pattern[str], str]:
    pattern = re.escape(source).replace(r"\#", "#").replace("#", r"(\d+)")
    groups = iter(range(1, source.count("#") + 1))
    template = re.sub("#", lambda _: rf"\g<{next(groups)}>", target)
    return re.compile(rf"{pattern}(?=\.|$)"), template


def _apply(rules: Sequence[tuple[re.Pattern[str], str]], key: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.match(key):
            return match.expand(template) + key[match.end() :]
    return None
