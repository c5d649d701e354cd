"""SequenceState, a request in progress, and Token, what it gives."""

from dataclasses import dataclass, field

from cupola.generation.cache import BlockTable
from cupola.generation.guide import Guide
from cupola.generation.sampling import SamplingParams

GROWTH = 128  # tokens that a request reserves beyond those it has


@dataclass(frozen=True)
class Token:
    """One new token; `finish_reason` is None, "stop" (end of text) or "length".

    A request for no tokens ends with one whose `token_id` is None, and so does one that fails, with
    an `error`. `top` lists the likeliest ids with their logprobs. The first token has `prompt`,
    where it was asked for: for each token of the prompt but the first its logprob and the likeliest
    ones; and `reused`, how many tokens of the prompt were not computed again.
    """

    request_id: str
    token_id: int | None
    finish_reason: str | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    prompt: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] = ()
    error: str = ""
    reused: int = 0


@dataclass
class SequenceState:
    """One request's tokens so far, and where their keys and values are."""

    request_id: str
    tokens: list[int]  # the prompt, then what was generated
    prompt: int
    sampling: SamplingParams
    guide: Guide | None = None
    table: BlockTable = field(default_factory=BlockTable)
    prompt_logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] = field(default_factory=list)
    reused: int = 0

    @property
    def reads_prompt(self) -> bool:
        """Whether the logits of its next tokens are wanted, as they are the prompt's."""
        return self.sampling.prompt_logprobs and len(self.tokens) == self.prompt

    @property
    def pending(self) -> int:
        """Tokens that the model has not yet seen."""
        return len(self.tokens) - self.table.length

    @property
    def total(self) -> int:
        """Tokens that the sequence may come to."""
        return self.prompt + self.sampling.max_tokens

    @property
    def reserve(self) -> int:
        """Tokens to reserve cache for now."""
        return min(self.total, len(self.tokens) + GROWTH)
