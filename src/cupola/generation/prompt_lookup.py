"""Prompt lookup: the next tokens are guessed to be those that followed the same words before.

Texts repeat themselves and their prompts: quotations, code, summaries, JSON. The guesses are run
with the token before them in one step, and as many are kept as the model would have chosen, so
several tokens can come from one reading of the weights. Source: Saxena, prompt-lookup-decoding
(2023); speculative decoding, arXiv 2211.17192.
"""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens at the end of a text that are looked for
WINDOW = 4096  # tokens back from the end


def guesses(tokens: Sequence[int], most: int) -> list[int]:
    """Up to `most` tokens that followed the latest earlier place that ends as `tokens` does."""
    recent = list(tokens[-WINDOW:])
    for size in range(min(LONGEST, len(recent) - 1), SHORTEST - 1, -1):
        end, first = recent[-size:], recent[-size]
        for start in range(len(recent) - size - 1, -1, -1):
            if recent[start] == first and recent[start : start + size] == end:
                return recent[start + size : start + size + most]
    return []
