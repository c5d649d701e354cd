"""What a language model made of a text: attention by layer and head, and the next tokens."""

from typing import Any

import torch

from cupola.inspect.attention_view import pack
from cupola.runtime.predictors.language import LanguagePredictor

LONGEST = 64  # tokens of the text that are shown
BEST = 10  # next tokens


def view_of_text(predictor: LanguagePredictor, text: str) -> dict[str, Any]:
    """The first 64 tokens of a text, and for each of them attention and the ten likeliest next.

    InputError for a text without tokens.
    """
    sample = predictor.sample(text, {})
    ids = list(sample.ids[:LONGEST])
    seen = predictor.model.inspect(torch.tensor([ids], device=predictor.device))
    best = seen["logits"].float().softmax(-1).topk(min(BEST, seen["logits"].shape[-1]))
    return {
        "kind": "language",
        "tokens": [_piece(predictor, token) for token in ids],
        "next": [
            [[_piece(predictor, t), round(p, 4)] for t, p in zip(tokens, shares, strict=True)]
            for tokens, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ],
        "attention": pack(seen["attention"].float().cpu()),
        "slopes": [round(s, 6) for s in seen["slopes"].tolist()] if "slopes" in seen else None,
    }


def _piece(predictor: LanguagePredictor, token: int) -> str:
    """The text of one token; its number where it has none of its own."""
    text = str(predictor.tokenizer.decode([token], special=True))
    return text if text else f"<{token}>"
