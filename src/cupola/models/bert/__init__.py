"""BERT (arXiv 1810.04805), as the language model of detectors that search for texts."""

from cupola.models.bert.encoder import Bert, BertLayer
from cupola.models.bert.language_model import BertModel
from cupola.models.bert.settings import BertSettings
from cupola.models.bert.tokens import (
    TextFeatures,
    Tokens,
    pad_tokens,
    sub_sentence_mask,
)

__all__ = [
    "Bert",
    "BertLayer",
    "BertModel",
    "BertSettings",
    "TextFeatures",
    "Tokens",
    "pad_tokens",
    "sub_sentence_mask",
]
