"""Guides: which tokens a grammar allows next, computed by llguidance.

A grammar is in llguidance's variant of Lark, where `%json {...}` is a JSON schema. The limits keep
one step of any grammar below about half a second; what exceeds them is an error of that request.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.errors import InputError

ONE_OF = "oneOf: its schemas must exclude each other, as types or constants do; or use anyOf"
KEPT = 8  # compiled grammars, the last ones used
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}


class Guide:
    """The place of one text in its grammar."""

    def __init__(self, matcher: Any, never: Sequence[int] = ()) -> None:
        self._matcher, self._never = matcher, list(never)

    @property
    def error(self) -> str:
        """Why the grammar cannot be followed further; empty as long as it can."""
        return _reason(self._matcher.get_error()) if self._matcher.is_error() else ""

    @property
    def ended(self) -> bool:
        """Whether the text is complete and cannot go on."""
        return bool(self._matcher.is_stopped())

    def allowed(self, count: int) -> Tensor:
        """[count] bool: the ids below `count` that may come next; all false after an error."""
        listed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)
        found = torch.zeros(count, dtype=torch.bool)
        if not self._matcher.is_error():
            found[: len(listed)] = torch.from_numpy(listed[:count] != 0)
            found[self._never] = False
        return found

    def accept(self, token: int) -> None:
        """Goes past a token."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


class Guides:
    """Compiles grammars for one tokenizer, of the library tokenizers.

    `ends` are the model's end tokens, which are allowed where a text is complete.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self._plain, self._ends = tokenizer, sorted(ends)
        self._compiled: OrderedDict[str, Any] = OrderedDict()

    @cached_property
    def tokenizer(self) -> Any:
        """llguidance's tokenizer. For a vocabulary of 250,000: some seconds, and 200 MB.

        It is made under Python's global lock: a thread would delay the others as much.
        """
        from llguidance import LLTokenizer

        try:
            known = [end for end in self._ends if self._plain.id_to_token(end) is not None]
            return LLTokenizer(self._plain.to_str(), eos_token=known or None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise InputError(
                f"this model's tokenizer cannot follow a grammar ({_reason(str(error))})"
            ) from None

    def start(self, grammar: str, steps: int = 1) -> Guide:
        """A guide at the beginning of a text. InputError if the grammar is not usable.

        A new grammar is followed for some `steps` first: not every limit is reached at once.
        """
        if grammar not in self._compiled:
            self._compiled[grammar] = self._compile(grammar, steps)
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        ends = self.tokenizer.eos_tokens
        never = [] if set(ends) <= set(self._ends) else ends  # there it stands in for an end token
        return Guide(self._compiled[grammar].deep_copy(), never)

    def knows(self, grammar: str) -> bool:
        """Whether a grammar has been compiled, and so is usable."""
        return grammar in self._compiled

    def _compile(self, grammar: str, steps: int) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**LIMITS)
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits)
        if any("oneOf" in warning for warning in matcher.get_grammar_warnings()):
            raise InputError(ONE_OF)  # a lenient schema would be read as anyOf
        trial = matcher.deep_copy()
        for _ in range(steps):
            allowed = np.flatnonzero(np.frombuffer(trial.compute_logit_bias(), np.uint8))
            if trial.is_error():
                raise InputError(_reason(trial.get_error()))
            if trial.is_stopped():
                break
            trial.consume_token(int(allowed[-1]))
        return matcher


def _reason(text: str) -> str:
    """The line of a message by llguidance that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["unknown"]
    plain = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if "oneOf constraints are not supported" in text:
        return ONE_OF
    found = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", (plain or lines)[0])
    return "no text matches it" if found.startswith("NoExtension") else found[:200]
