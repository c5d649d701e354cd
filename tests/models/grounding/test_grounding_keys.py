"""State keys of Grounding DINO and BERT, listed by hand from the original's constructors."""

import re
from typing import Any

from cupola import nn
from cupola.registry import build
from models.grounding.small import grounding_dino

BODY = "language_model.language_backbone.body.model"
LAYERS = 2


def linear(*names: str) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def attention(name: str) -> list[str]:
    projections = [f"{name}.attn.in_proj_weight", f"{name}.attn.in_proj_bias"]
    return projections + linear(f"{name}.attn.out_proj")


def sampling(name: str) -> list[str]:
    parts = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    return linear(*(f"{name}.{part}" for part in parts))


def ends(name: str, norms: int) -> list[str]:
    """The feed-forward network and the norms of a layer."""
    ffn = linear(f"{name}.ffn.layers.0.0", f"{name}.ffn.layers.1")
    return ffn + linear(*(f"{name}.norms.{i}" for i in range(norms)))


def bert() -> list[str]:
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    keys = [f"{BODY}.embeddings.{table}.weight" for table in tables]
    keys += linear(f"{BODY}.embeddings.LayerNorm")
    for i in range(2):
        layer = f"{BODY}.encoder.layer.{i}"
        keys += linear(*(f"{layer}.attention.self.{part}" for part in ("query", "key", "value")))
        keys += linear(f"{layer}.attention.output.dense", f"{layer}.attention.output.LayerNorm")
        keys += linear(f"{layer}.intermediate.dense")
        keys += linear(f"{layer}.output.dense", f"{layer}.output.LayerNorm")
    return keys


def encoder() -> list[str]:
    keys = []
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        keys += sampling(f"{layer}.self_attn") + ends(layer, 2)
    for i in range(LAYERS):
        layer = f"encoder.text_layers.{i}"
        keys += attention(f"{layer}.self_attn") + ends(layer, 2)
    for i in range(LAYERS):
        layer = f"encoder.fusion_layers.{i}"
        keys += [f"{layer}.gamma_v", f"{layer}.gamma_l"]
        keys += linear(f"{layer}.layer_norm_v", f"{layer}.layer_norm_l")
        parts = ("v_proj", "l_proj", "values_v_proj", "values_l_proj", "out_v_proj", "out_l_proj")
        keys += linear(*(f"{layer}.attn.{part}" for part in parts))
    return keys


def decoder() -> list[str]:
    keys = []
    for i in range(LAYERS):
        layer = f"decoder.layers.{i}"
        keys += attention(f"{layer}.self_attn") + attention(f"{layer}.cross_attn_text")
        keys += sampling(f"{layer}.cross_attn") + ends(layer, 4)
    points = linear("decoder.ref_point_head.layers.0", "decoder.ref_point_head.layers.1")
    return keys + points + linear("decoder.norm")


def rest(pooler: bool) -> list[str]:
    keys = ["query_embedding.weight", *linear("memory_trans_fc", "memory_trans_norm"), *bert()]
    keys += linear(f"{BODY}.pooler.dense") if pooler else []
    return [*keys, *linear("text_feat_map"), "dn_query_generator.label_embedding.weight"]


def head(learned: tuple[str, ...]) -> list[str]:
    keys = [f"bbox_head.cls_branches.{i}.{part}" for i in range(LAYERS + 1) for part in learned]
    for i in range(LAYERS + 1):
        keys += linear(*(f"bbox_head.reg_branches.{i}.{part}" for part in (0, 2, 4)))
    return keys


def found(**contrastive: Any) -> tuple[list[str], list[str]]:
    """The keys of a small model, without and with BERT's pooler."""
    config = grounding_dino(contrastive)
    both = []
    for pooler in (False, True):
        config["language_model"]["add_pooling_layer"] = pooler
        with nn.on_meta():
            state = build(config).state_dict()
        both.append([key for key in state if not re.match(r"(backbone|neck)\.", key)])
    return both[0], both[1]


def test_keys_in_their_order() -> None:
    for contrastive, learned in (
        ({}, ()),
        ({"log_scale": "auto", "bias": True}, ("bias",)),
        ({"log_scale": 0.0, "bias": True}, ("log_scale", "bias")),
    ):
        plain, pooled = found(**contrastive)
        start = ["level_embed", *head(learned), *encoder(), *decoder()]
        assert plain == start + rest(pooler=False)
        assert pooled == start + rest(pooler=True)
