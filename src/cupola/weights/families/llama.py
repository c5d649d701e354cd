"""LLaMA, Mistral and Qwen2: our names are transformers', and nothing is fused."""

from cupola.weights.families.family import LanguageFamily
from cupola.weights.renaming import Renaming

LLAMA = LanguageFamily(
    name="llama",
    prefix="model.",
    names=Renaming([(name, name) for name in ("embed_tokens", "layers.#", "norm")]),
    embedding="model.embed_tokens.weight",
    split=(
        (r"(q|k|v|gate|up)_proj\.(weight|bias)", 0),
        (r"(embed_tokens|lm_head)\.weight", 0),
        (r"(o|down)_proj\.weight", 1),
    ),
    unused=r"\.rotary_emb\.inv_freq$",  # computed from the settings
)
