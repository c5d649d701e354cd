"""PrefillBudget: how many prompt tokens a step may have while other requests generate.

A step with one token of each request reads the weights once; each prompt token beside them costs
arithmetic. Both times are measured, so that a step takes at most about twice as long with prompt
tokens as without, on any machine. A request that generates therefore waits less than two steps for
a token, however long the prompts of others are.
"""

from dataclasses import dataclass

LEAST = 8  # prompt tokens of a step, whatever they cost
FIRST = 16  # before anything was measured
WEIGHT = 0.25  # of the newest measurement


@dataclass
class PrefillBudget:
    """Measures steps; `tokens` is the budget of the next one."""

    chunk: int  # the most, and the budget while nobody generates
    step: float = 0.0  # seconds of a step that only generates
    token: float = 0.0  # seconds that a prompt token adds

    def tokens(self, generating: bool) -> int:
        """Prompt tokens of the next step."""
        if not generating:
            return self.chunk
        if not self.step or not self.token:
            return min(FIRST, self.chunk)
        return max(min(LEAST, self.chunk), min(int(self.step / self.token), self.chunk))

    def measured(self, seconds: float, generating: bool, prefilled: int) -> None:
        """Takes in a step that had `prefilled` prompt tokens."""
        if generating and not prefilled:
            self.step = _mean(self.step, seconds)
        elif prefilled >= LEAST:
            added = max(seconds - (self.step if generating else 0.0), 0.0) / prefilled
            self.token = _mean(self.token, added)


def _mean(old: float, new: float) -> float:
    return old + WEIGHT * (new - old) if old else new
