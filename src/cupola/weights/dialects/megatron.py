"""Megatron-DeepSpeed's BLOOM shards: layer_XX-model_YY-model_states.pt.

A file holds one layer's part for one tensor rank: layer 01 is the embedding, 03 up to L + 2 are the
blocks, L + 4 is the final norm.
"""

import re
from collections.abc import Collection

from torch import Tensor

from cupola.errors import CheckpointError
from cupola.weights.families.bloom import BLOOM

SHARD = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
FIRST_BLOCK = 3
# Checkpoint version -> order of the rows of query_key_value, slowest first.
OLD_ORDERS = {0: ("qkv", "head", "size"), 1: ("head", "size", "qkv")}

_EMBEDDING = {
    "word_embeddings.weight": "transformer.embedding.word.weight",
    "word_embeddings.norm.weight": "transformer.embedding.norm.weight",
    "word_embeddings.norm.bias": "transformer.embedding.norm.bias",
}
_WRAPPERS = re.compile(r"^(module\.|model\.|language_model\.|_orig_mod\.)+")
_PARTS = {
    "input_layernorm": "input_norm",
    "self_attention": "attention",
    "post_attention_layernorm": "attention_norm",
    "mlp": "mlp",
}


def count_ranks(shards: Collection[tuple[int, int]], where: str) -> int:
    """The tensor ranks of files, given as (layer, rank).

    Raises CheckpointError unless every layer has a file of each rank from 0, and the blocks follow
    one another: the numbers in file names are what sizes are made from.
    """
    layers, ranks = sorted({layer for layer, _ in shards}), {rank for _, rank in shards}
    for rank in range(len(ranks)):
        for layer in layers:
            if (layer, rank) not in shards:
                name = f"layer_{layer:02d}-model_{rank:02d}-model_states.pt"
                raise CheckpointError(
                    f"{where}: {name} is missing; copy all files of the checkpoint"
                )
    blocks = [layer for layer in layers[:-1] if layer >= FIRST_BLOCK]
    end = FIRST_BLOCK + len(blocks)
    if blocks != list(range(FIRST_BLOCK, end)) or layers[-1] > end + 1:
        raise CheckpointError(f"{where}: has files of the layers {_few(layers)}, some are missing")
    return len(ranks)


def _few(layers: list[int]) -> str:
    shown = [f"{layer:02d}" for layer in layers]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-4:]])


def our_key(layer: int, key: str, last: int) -> str:
    """Our name of `key` in the file of `layer`; `last` is the highest layer number there is.

    Raises CheckpointError for an unknown name.
    """
    if layer == 1 and key in _EMBEDDING:
        return _EMBEDDING[key]
    if layer == last and key in ("weight", "bias"):
        return f"transformer.final_norm.{key}"
    part, _, rest = key.partition(".")
    if layer >= FIRST_BLOCK and part in _PARTS:
        return f"transformer.blocks.{layer - FIRST_BLOCK}.{_PARTS[part]}.{rest}"
    raise CheckpointError(f"layer_{layer:02d}: {key!r} is not a parameter of a BLOOM layer")


def whole_key(key: str) -> str | None:
    """Our name of a parameter in a rank's own file, where modules are not split into layers.

    transformers' names are known as well (DeepSpeed saves any model so). None for the copy of the
    embedding that pipelines keep for the head. CheckpointError for an unknown name.
    """
    if key.startswith("word_embeddings_for_head."):
        return None
    bare = _WRAPPERS.sub("", key)
    if match := re.fullmatch(r"(?:transformer|encoder)\.layers\.(\d+)\.(.+)", bare):
        rest = re.sub(r"^attention\.", "self_attention.", match[2])
        return our_key(int(match[1]) + FIRST_BLOCK, rest, -1)
    if match := re.fullmatch(r"(?:transformer|encoder)\.final_layernorm\.(weight|bias)", bare):
        return f"transformer.final_norm.{match[1]}"
    if (name := bare.removeprefix("embedding.")) in _EMBEDDING:
        return _EMBEDDING[name]
    plain = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
    named = BLOOM.our_key(plain)
    if named is not None and named == plain:
        raise CheckpointError(f"{key!r} is not a parameter of a BLOOM checkpoint of Megatron")
    return named


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
    """Rows of query_key_value of a checkpoint version in our order, that of version 2 and later.

    `heads` are those of one rank (Megatron-LM checkpointing.py, fix_query_key_value_ordering).
    """
    assert BLOOM.fused is not None
    return fused if version >= 2 else BLOOM.fused.reorder(fused, OLD_ORDERS[int(version)], heads)
