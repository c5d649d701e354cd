"""IncrementalDetokenizer: one request's token ids become text as soon as the text is certain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PARTIAL = 3  # bytes of a character that is not complete, and so tokens at most
MOST_UNREAD = 64  # tokens whose text is held back
PROMPT_CONTEXT = 5  # tokens of the prompt that are decoded along with the first new ones


def token_bytes(piece: str) -> list[int] | None:
    """The bytes of a token as vocabularies write it; None if it is written in none of their ways.

    GPT-2's, of bytes, has a printable letter for each; SentencePiece's writes single ones <0xE5>.
    """
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return [int(piece[3:5], 16)]
    found = [_LETTERS.get(letter, -1) for letter in piece]
    return None if -1 in found else found


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters: printable bytes as they are, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_LETTERS = _byte_letters()


@dataclass
class IncrementalDetokenizer:
    """Holds text back while it may be half a character, or the beginning of a stop string.

    A token's text can depend on the token before it (SentencePiece drops the space in front of the
    first word), so new tokens are decoded together with the last ones that were.
    """

    tokenizer: Any
    prompt: Sequence[int] = ()
    stop: Sequence[str] = ()
    min_tokens: int = 0  # a stop string ends nothing before
    keep_stop: bool = False  # whether the text ends with the stop string, or before it
    count: int = 0
    held: str = ""
    _known: list[int] = field(default_factory=list)  # tokens whose text was given out last
    _unread: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = list(self.prompt[-PROMPT_CONTEXT:])

    def add(self, token_id: int, last: bool) -> tuple[str, bool]:
        """The text that became certain, and whether a stop string was reached."""
        self.count += 1
        self._unread.append(token_id)
        text = self._read(last)
        if not text and not last:
            return "", False
        self.held += text
        found = sorted((self.held.find(stop), len(stop)) for stop in self.stop)
        for start, length in found:
            if start >= 0 and self.count > self.min_tokens:
                return self.held[: start + length * self.keep_stop], True
        certain = len(self.held) if last else len(self.held) - self._overlap()
        out, self.held = self.held[:certain], self.held[certain:]
        return out, False

    def _read(self, last: bool) -> str:
        """The text of the unread tokens that later ones cannot change."""
        known = self.tokenizer.decode(self._known)
        text = self.tokenizer.decode(self._known + self._unread)
        if not text.endswith("\ufffd") or last:
            self._known, self._unread = self._unread, []
            return str(text[len(known) :])
        cut, left = len(self._unread), PARTIAL
        while cut and left:
            cut -= 1
            left -= bool(self.tokenizer.decode([self._unread[cut]]))  # special tokens are no bytes
        if not cut:
            return ""
        # Only the last tokens can be a part of a character; those before them are no text.
        done = self._known + self._unread[:cut]
        before = self.tokenizer.decode(done)
        if not text.startswith(before) and len(self._unread) < MOST_UNREAD:
            return ""
        self._known, self._unread = done[-MOST_UNREAD:], self._unread[cut:]
        return str(before[len(known) :])

    def _overlap(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.stop):
                return length
        return 0
