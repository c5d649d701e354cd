"""DETR's checkpoints: MMDetection 3.x and 2.x, facebookresearch/detr, Hugging Face transformers.

Our own keys are those of MMDetection 3.x. A model built from a 2.x config has the nested keys of
2.x, and the last step of every translation renames to these.
"""

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.hf_detr_parts import (
    join_projections,
    modern_name,
    resnet_name,
    split_projections,
)
from cupola.weights.renaming import Renaming

HEAD = [
    ("bbox_head.reg_ffn.layers.0.0", "bbox_embed.layers.0"),
    ("bbox_head.reg_ffn.layers.1", "bbox_embed.layers.1"),
    ("bbox_head.fc_reg", "bbox_embed.layers.2"),
    ("bbox_head.fc_cls", "class_embed"),
]

FACEBOOK = Renaming(
    [
        ("backbone", "backbone.0.body"),
        ("neck.convs.0.conv", "input_proj"),
        ("query_embedding", "query_embed"),
        ("encoder.layers.#.self_attn.attn", "transformer.encoder.layers.#.self_attn"),
        ("encoder.layers.#.ffn.layers.0.0", "transformer.encoder.layers.#.linear1"),
        ("encoder.layers.#.ffn.layers.1", "transformer.encoder.layers.#.linear2"),
        ("encoder.layers.#.norms.0", "transformer.encoder.layers.#.norm1"),
        ("encoder.layers.#.norms.1", "transformer.encoder.layers.#.norm2"),
        ("encoder.post_norm", "transformer.encoder.norm"),
        ("decoder.layers.#.self_attn.attn", "transformer.decoder.layers.#.self_attn"),
        ("decoder.layers.#.cross_attn.attn", "transformer.decoder.layers.#.multihead_attn"),
        ("decoder.layers.#.ffn.layers.0.0", "transformer.decoder.layers.#.linear1"),
        ("decoder.layers.#.ffn.layers.1", "transformer.decoder.layers.#.linear2"),
        ("decoder.layers.#.norms.0", "transformer.decoder.layers.#.norm1"),
        ("decoder.layers.#.norms.1", "transformer.decoder.layers.#.norm2"),
        ("decoder.layers.#.norms.2", "transformer.decoder.layers.#.norm3"),
        ("decoder.post_norm", "transformer.decoder.norm"),
        *HEAD,
    ]
)

NESTED = Renaming(
    [
        ("neck.convs.0.conv", "bbox_head.input_proj"),
        ("query_embedding", "bbox_head.query_embedding"),
        ("encoder.layers.#.self_attn", "bbox_head.transformer.encoder.layers.#.attentions.0"),
        ("encoder.layers.#.ffn", "bbox_head.transformer.encoder.layers.#.ffns.0"),
        ("encoder.layers.#.norms", "bbox_head.transformer.encoder.layers.#.norms"),
        ("encoder.post_norm", "bbox_head.transformer.encoder.post_norm"),
        ("decoder.layers.#.self_attn", "bbox_head.transformer.decoder.layers.#.attentions.0"),
        ("decoder.layers.#.cross_attn", "bbox_head.transformer.decoder.layers.#.attentions.1"),
        ("decoder.layers.#.ffn", "bbox_head.transformer.decoder.layers.#.ffns.0"),
        ("decoder.layers.#.norms", "bbox_head.transformer.decoder.layers.#.norms"),
        ("decoder.post_norm", "bbox_head.transformer.decoder.post_norm"),
    ]
)

# Before 2.8 MMDetection named attentions and FFN differently, as the 20201130 checkpoint does.
BEFORE_2_8 = (
    (".multihead_attn.", ".attentions.1."),
    (".self_attn.", ".attentions.0."),
    (".ffn.", ".ffns.0."),
    (".decoder.norm.", ".decoder.post_norm."),
)

HF_LAYER = [
    ("self_attn.attn", "self_attn"),
    ("cross_attn.attn", "encoder_attn"),
    ("ffn.layers.0.0", "mlp.fc1"),
    ("ffn.layers.1", "mlp.fc2"),
]
HF_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
HF = Renaming(
    [
        ("backbone", "model.backbone.model"),
        ("neck.convs.0.conv", "model.input_projection"),
        ("query_embedding", "model.query_position_embeddings"),
        *[
            (f"{part}.layers.#.{ours}", f"model.{part}.layers.#.{theirs}")
            for part in ("encoder", "decoder")
            for ours, theirs in HF_LAYER
        ],
        *[
            (f"{part}.layers.#.norms.{i}", f"model.{part}.layers.#.{norm}")
            for part, norms in HF_NORMS.items()
            for i, norm in enumerate(norms)
        ],
        ("encoder.post_norm", "model.encoder.layernorm"),
        ("decoder.post_norm", "model.decoder.layernorm"),
        ("bbox_head.fc_cls", "class_labels_classifier"),
        ("bbox_head.reg_ffn.layers.0.0", "bbox_predictor.layers.0"),
        ("bbox_head.reg_ffn.layers.1", "bbox_predictor.layers.1"),
        ("bbox_head.fc_reg", "bbox_predictor.layers.2"),
    ]
)


def _rename(state: StateView, renaming: Renaming) -> State:
    return {renaming.to_ours(key) or key: value for key, value in state.items()}


def _fit_spelling(state: State, own: StateView) -> State:
    """Renames 3.x keys to the nested ones where the model was built from a 2.x config."""
    if not any(key.startswith("bbox_head.transformer.") for key in own):
        return state
    return {NESTED.to_theirs(key) or key: value for key, value in state.items()}


def _is_detr(own: StateView) -> bool:
    return any(key.startswith("bbox_head.fc_cls.") for key in own)


def _has_any(state: StateView, *names: str) -> bool:
    """Whether one of the keys is there: a class head that was deleted is recognized by others."""
    return not state.keys().isdisjoint(names)


def _from_facebook(state: StateView, own: StateView) -> State:
    return _fit_spelling(_rename(state, FACEBOOK), own)


def _from_nested(state: StateView, own: StateView) -> State:
    modern = {}
    for key, value in state.items():
        if key.startswith("bbox_head.transformer."):
            for old, new in BEFORE_2_8:
                key = key.replace(old, new) if ".attentions." not in key else key
        modern[key] = value
    return _fit_spelling(_rename(modern, NESTED), own)


def _from_mmdet3(state: StateView, own: StateView) -> State:
    return _fit_spelling(dict(state), own)


def _from_hf(state: StateView, own: StateView) -> State:
    modern = {modern_name(key): value for key, value in state.items()}
    named = _rename(join_projections(modern), HF)
    return _fit_spelling({resnet_name(key): value for key, value in named.items()}, own)


def _canonical(state: StateView) -> State:
    """Our state in the 3.x spelling, whichever spelling the model was built from."""
    return _rename(state, NESTED)


def _to_facebook(state: StateView) -> State:
    return {
        FACEBOOK.to_theirs(key) or key: value
        for key, value in _canonical(state).items()
        if not key.endswith("num_batches_tracked")
    }


def _to_nested(state: StateView) -> State:
    return {NESTED.to_theirs(key) or key: value for key, value in _canonical(state).items()}


def _to_hf(state: StateView) -> State:
    """transformers 5.x keys with torchvision's names in the backbone (a timm backbone)."""
    named = {HF.to_theirs(key) or key: value for key, value in _canonical(state).items()}
    return split_projections(named)


DETR_DIALECTS = (
    Dialect(
        "facebook",
        lambda state, own: (
            _is_detr(own)
            and _has_any(
                state,
                "class_embed.weight",
                "transformer.decoder.layers.0.multihead_attn.in_proj_weight",
            )
        ),
        _from_facebook,
        _to_facebook,
    ),
    Dialect(
        "hf-detr",
        lambda state, own: (
            _is_detr(own)
            and _has_any(
                state, "class_labels_classifier.weight", "model.query_position_embeddings.weight"
            )
        ),
        _from_hf,
        _to_hf,
    ),
    Dialect(
        "mmdet2",
        lambda state, own: _is_detr(own) and "bbox_head.input_proj.weight" in state,
        _from_nested,
        _to_nested,
    ),
    Dialect(
        "mmdet3",
        lambda state, own: (
            _is_detr(own) and "encoder.layers.0.self_attn.attn.in_proj_weight" in state
        ),
        _from_mmdet3,
        _canonical,
    ),
)
