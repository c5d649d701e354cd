"""BLOOM: bigscience/bloom*, transformers' BloomForCausalLM. Tensors are equal to ours."""

from cupola.weights.families.family import FusedRows, LanguageFamily
from cupola.weights.renaming import Renaming

BLOOM = LanguageFamily(
    name="bloom",
    prefix="transformer.",
    names=Renaming(
        [
            ("embedding.word", "word_embeddings"),
            ("embedding.norm", "word_embeddings_layernorm"),
            ("blocks.#.input_norm", "h.#.input_layernorm"),
            ("blocks.#.attention_norm", "h.#.post_attention_layernorm"),
            ("blocks.#.attention", "h.#.self_attention"),
            ("blocks.#.mlp", "h.#.mlp"),
            ("final_norm", "ln_f"),
        ]
    ),
    embedding="transformer.embedding.word.weight",
    split=(
        (r"(query_key_value|dense_h_to_4h)\.(weight|bias)", 0),
        (r"embedding\.word\.weight", 0),
        (r"(attention\.dense|mlp\.dense_4h_to_h)\.weight", 1),
    ),
    fused=FusedRows("query_key_value", ("head", "qkv", "size")),
    unused=r"^lm_head\.weight$",  # always the embedding once more
)
