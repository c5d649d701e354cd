"""What detectors that search for texts share: prompts, and attention between image and text."""

from cupola.models.grounding.fusion import BiAttention
from cupola.models.grounding.prompts import (
    EncodedPrompt,
    Prompt,
    Text,
    TextTokenizer,
    class_scores,
    encode,
    positive_map,
    prompts_of,
)
from cupola.models.grounding.search import TextSearch

__all__ = [
    "BiAttention",
    "EncodedPrompt",
    "Prompt",
    "Text",
    "TextSearch",
    "TextTokenizer",
    "class_scores",
    "encode",
    "positive_map",
    "prompts_of",
]
