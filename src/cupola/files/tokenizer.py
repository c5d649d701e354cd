"""Reading an untrusted tokenizer.json, and encoding with it at a bounded cost.

The file programs the `tokenizers` library: its normalizers can multiply a text, its regular
expressions can backtrack for ever, and the library panics on some contradictions. The file is
checked, then tried in a child process, before this process reads it.
"""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cupola.errors import CupolaError, InputError
from cupola.files.guard import guarded
from cupola.files.opening import read_text

LARGEST = 64 * 2**20  # bytes; Gemma's has 33 MB
MOST_GROWTH = 64.0  # times that normalizers, or decoders, may multiply a text
MOST_VALUES = 10_000  # in a part other than the model; real ones have some hundred
LONGEST_PROMPT = 2_000_000  # characters
LARGE_REPEAT, MOST_REPEATS = 100, 3  # repeats of so many times count; so many may be in a row
MEMORY_BASE, MEMORY_PER_BYTE = 150 * 2**20, 60
SECONDS_BASE, SECONDS_PER_BYTE = 0.8, 2e-7
PROBES = ["a" * 3000, " " * 3000, "1" * 3000, "\n" * 1000, "ab " * 1000, "aA1 .é\n'" * 300]


def read_tokenizer(path: Path, error: type[CupolaError] = InputError) -> "GuardedTokenizer":
    """The tokenizer of a file, without the padding and truncation that it may ask for.

    Raises `error` for a file that is no tokenizer, makes the library crash, or asks for more time
    or memory than reading it may take.
    """
    from tokenizers import Tokenizer

    text = read_text(path, LARGEST, error)
    try:
        _check(json.loads(text))
    except _RefusedError as problem:
        raise error(f"{path}: {problem}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not a tokenizer ({_first_line(problem)})") from None

    def attempt() -> None:
        tokenizer = GuardedTokenizer(Tokenizer.from_str(text))
        for probe in PROBES:
            tokenizer.decode(tokenizer.encode(probe).ids)

    reason = guarded(
        attempt,
        memory=MEMORY_BASE + MEMORY_PER_BYTE * len(text),
        seconds=SECONDS_BASE + SECONDS_PER_BYTE * len(text),
    )
    if reason is not None:
        raise error(f"{path}: not a usable tokenizer ({reason})")
    with _no_panic(error, f"{path}: not a usable tokenizer"):
        return GuardedTokenizer(Tokenizer.from_str(text))


class GuardedTokenizer:
    """A tokenizer of the `tokenizers` library whose failures are InputError.

    Every other attribute is the library's.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    def encode(self, text: str, special: bool = True) -> Any:
        """The library's Encoding of a text; with `special`, with the tokens put around it."""
        if len(text) > LONGEST_PROMPT:
            raise InputError(f"prompt: {len(text)} characters exceed the {LONGEST_PROMPT} accepted")
        with _no_panic(InputError, "prompt: the tokenizer cannot encode it"):
            return self._tokenizer.encode(text, add_special_tokens=special)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of token ids; with `special`, with the names of special tokens."""
        with _no_panic(InputError, "the tokenizer cannot decode its own tokens"):
            return str(self._tokenizer.decode(ids, skip_special_tokens=not special))

    def __getattr__(self, name: str) -> Any:
        if "_tokenizer" not in self.__dict__:  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


class _RefusedError(ValueError):
    pass


@contextmanager
def _no_panic(error: type[CupolaError], what: str) -> Iterator[None]:
    """Turns errors of the library into `error`; its panics are no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, CupolaError):
        raise
    except BaseException as problem:
        raise error(f"{what} ({_first_line(problem)})") from None


def _first_line(problem: BaseException) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0][:200]


def _check(content: Any) -> None:
    if not isinstance(content, dict) or "model" not in content:
        raise _RefusedError("not a tokenizer: it is no object with a `model`")
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        steps = list(_steps(part, content.get(part)))
        growth = 1.0
        for step in steps:
            growth *= _growth(step)
            _check_pattern(part, step.get("pattern"))
        if growth > MOST_GROWTH:
            raise _RefusedError(f"its {part} can multiply a text by more than {MOST_GROWTH:.0f}")


def _steps(part: str, value: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, with those of sequences."""
    waiting, seen = [value], 0
    while waiting:
        current, seen = waiting.pop(), seen + 1
        if seen + len(waiting) > MOST_VALUES:
            raise _RefusedError(f"its {part} has more than {MOST_VALUES} values")
        if isinstance(current, dict):
            yield current
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current


def _growth(step: dict[str, Any]) -> float:
    """By how much a Replace or Prepend can multiply a text of some length."""
    content = step.get("content", step.get("prepend"))
    if not isinstance(content, str):
        return 1.0
    pattern = step.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1.0, len(content.encode(errors="replace")) / max(len(str(literal or "")), 1))


def _check_pattern(part: str, pattern: Any) -> None:
    text = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(text, str) and _is_slow(text):
        raise _RefusedError(f"its {part} has a pattern that can take too much time: {text!r:.100}")


def _is_slow(pattern: str) -> bool:
    """Whether matching can take exponential time, or time of a high power of the text's length."""
    plain = re.sub(r"\\[pP]\{[^}]*\}|\\[hHR]|\[:\^?\w+:\]", r"\\w", pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = re._parser.parse(plain)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError):
        return False  # a pattern of the library's own syntax; it is still tried
    return _backtracks(tree, False)


def _backtracks(node: Any, repeated: bool) -> bool:
    """Repeats inside repeats as in (a+)+, many in a row as in a*a*a*a*a*, references back."""
    if not isinstance(node, list | tuple) and not hasattr(node, "data"):
        return False
    items = list(node)
    kind = str(items[0]) if isinstance(node, tuple) and items else ""
    if kind == "GROUPREF":
        return True
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        _, most, inner = items[1]
        unbounded = most > LARGE_REPEAT
        return (unbounded and repeated) or _backtracks(inner, repeated or unbounded)
    row = 0
    for each in items:
        row = row + 1 if _is_unbounded(each) else 0
        if row > MOST_REPEATS:
            return True
    return any(_backtracks(each, repeated) for each in items)


def _is_unbounded(node: Any) -> bool:
    is_repeat = isinstance(node, tuple) and str(node[:1]) in ("(MAX_REPEAT,)", "(MIN_REPEAT,)")
    return is_repeat and node[1][1] > LARGE_REPEAT
