"""BLOOM checkpoints of Hugging Face (bigscience/bloom*, transformers' BloomForCausalLM).

Tensors are equal to ours; only names differ. Checkpoints of the bare trunk (as bigscience
published them) leave out the prefix "transformer."; "lm_head.weight" is the word embedding again.
"""

from collections.abc import Mapping

from torch import Tensor

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.renaming import Renaming

PREFIX = "transformer."
TIED = "lm_head.weight"

HUGGING_FACE = Renaming(
    [
        ("embedding.word", "word_embeddings"),
        ("embedding.norm", "word_embeddings_layernorm"),
        ("blocks.#.input_norm", "h.#.input_layernorm"),
        ("blocks.#.attention_norm", "h.#.post_attention_layernorm"),
        ("blocks.#.attention", "h.#.self_attention"),
        ("blocks.#.mlp", "h.#.mlp"),
        ("final_norm", "ln_f"),
    ]
)


def our_key(key: str) -> str | None:
    """Our name of a foreign parameter; None for the tied head, which is stored once.

    A name that nobody knows stays as it is, so that the loader can report it.
    """
    if key == TIED:
        return None
    known = HUGGING_FACE.to_ours(key.removeprefix(PREFIX))
    return PREFIX + known if known else key


def their_key(key: str) -> str:
    """The foreign name of our parameter."""
    known = HUGGING_FACE.to_theirs(key.removeprefix(PREFIX))
    return PREFIX + known if known else key


def _speaks(state: StateView, own: StateView) -> bool:
    norms = ("word_embeddings_layernorm.weight", f"{PREFIX}word_embeddings_layernorm.weight")
    return any(key in state for key in norms) and is_bloom(own)


def is_bloom(own: StateView) -> bool:
    """Does this state dict belong to our BLOOM?"""
    return "transformer.embedding.word.weight" in own


def _to_ours(state: StateView, own: StateView) -> State:
    return _renamed(state)


def _renamed(state: Mapping[str, Tensor]) -> State:
    pairs = ((our_key(key), tensor) for key, tensor in state.items())
    return {key: tensor for key, tensor in pairs if key is not None}


def _to_theirs(state: StateView) -> State:
    ours = {their_key(key): tensor for key, tensor in state.items()}
    return ours | {TIED: ours[f"{PREFIX}word_embeddings.weight"]}


BLOOM_HF = Dialect("bloom_hf", _speaks, _to_ours, _to_theirs)
