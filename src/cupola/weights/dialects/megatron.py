"""Megatron-DeepSpeed's BLOOM shards: layer_XX-model_YY-model_states.pt.

A file holds one layer's part for one tensor rank: layer 01 the embedding, 03 up to L + 2 the
blocks, L + 4 the final norm. Our names and layouts are meant by "our" below.
"""

import re

from torch import Tensor

from cupola.errors import CheckpointError

SHARD = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
FIRST_BLOCK = 3

_EMBEDDING = {
    "word_embeddings.weight": "transformer.embedding.word.weight",
    "word_embeddings.norm.weight": "transformer.embedding.norm.weight",
    "word_embeddings.norm.bias": "transformer.embedding.norm.bias",
}
_PARTS = {
    "input_layernorm": "input_norm",
    "self_attention": "attention",
    "post_attention_layernorm": "attention_norm",
    "mlp": "mlp",
}
# Split along dimension 0 (outputs) or 1 (inputs); everything else is replicated.
_SPLIT = (
    (re.compile(r"(query_key_value|dense_h_to_4h)\.(weight|bias)$|embedding\.word\.weight$"), 0),
    (re.compile(r"(attention\.dense|mlp\.dense_4h_to_h)\.weight$"), 1),
)


def split_dim(our_key: str) -> int | None:
    """The dimension along which tensor ranks split our parameter; None if each holds it whole."""
    for pattern, dim in _SPLIT:
        if pattern.search(our_key):
            return dim
    return None


def our_key(layer: int, key: str, last: int) -> str:
    """Our name of `key` in the file of `layer`; `last` is the highest layer number there is.

    Raises CheckpointError for a name that no BLOOM has.
    """
    if layer == 1 and key in _EMBEDDING:
        return _EMBEDDING[key]
    if layer == last and key in ("weight", "bias"):
        return f"transformer.final_norm.{key}"
    part, _, rest = key.partition(".")
    if layer >= FIRST_BLOCK and part in _PARTS:
        return f"transformer.blocks.{layer - FIRST_BLOCK}.{_PARTS[part]}.{rest}"
    raise CheckpointError(f"layer_{layer:02d}: {key!r} belongs to no BLOOM layer")


def their_place(our_key: str, blocks: int) -> tuple[int, str]:
    """Layer number and name, in the shards, of our parameter."""
    for theirs, ours in _EMBEDDING.items():
        if ours == our_key:
            return 1, theirs
    if our_key.startswith("transformer.final_norm."):
        return blocks + FIRST_BLOCK + 1, our_key.rsplit(".", 1)[1]
    _, _, block, part, rest = our_key.split(".", 4)
    theirs = {ours: theirs for theirs, ours in _PARTS.items()}[part]
    return int(block) + FIRST_BLOCK, f"{theirs}.{rest}"


def to_our_rows(fused: Tensor, version: float, heads: int) -> Tensor:
    """Rows of query_key_value in the order (head, [q, k, v], head_dim) of version 2 and later.

    Version 0 wrote ([q, k, v], head, head_dim) and version 1 (head, head_dim, [q, k, v]), each
    within one rank's `heads` (Megatron-LM checkpointing.py, fix_query_key_value_ordering).
    """
    if version >= 2:
        return fused
    size = fused.shape[0] // (3 * heads)
    rest = fused.shape[1:]
    if version == 0:
        return fused.view(3, heads, size, *rest).transpose(0, 1).reshape(fused.shape)
    return fused.view(heads, size, 3, *rest).transpose(1, 2).reshape(fused.shape)
