"""Conditional DETR and DAB-DETR as Hugging Face transformers names them.

Our own keys are those of MMDetection 3.x. Translations to transformers have its file names, with
torchvision's names in the backbone (a timm backbone).
"""

import re

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.hf_detr_parts import (
    join_projections,
    modern_name,
    resnet_name,
    split_projections,
)
from cupola.weights.renaming import Renaming

ENCODER = [
    ("encoder.layers.#.self_attn.attn", "model.encoder.layers.#.self_attn"),
    ("encoder.layers.#.ffn.layers.0.0", "model.encoder.layers.#.mlp.fc1"),
    ("encoder.layers.#.ffn.layers.0.1", "model.encoder.layers.#.activation_fn"),
    ("encoder.layers.#.ffn.layers.1", "model.encoder.layers.#.mlp.fc2"),
    ("encoder.layers.#.norms.0", "model.encoder.layers.#.self_attn_layer_norm"),
    ("encoder.layers.#.norms.1", "model.encoder.layers.#.final_layer_norm"),
]
WHOLE = [
    ("backbone", "model.backbone.model"),
    ("neck.convs.0.conv", "model.input_projection"),
    ("decoder.post_norm", "model.decoder.layernorm"),
    ("decoder.query_scale", "model.decoder.query_scale"),
    ("decoder.ref_point_head", "model.decoder.ref_point_head"),
    *ENCODER,
]
PROJECTIONS = ("qcontent", "qpos", "kcontent", "kpos", "v", "qpos_sine")
DECODER = "model.decoder.layers.#"

CONDITIONAL = Renaming(
    [
        *WHOLE,
        ("query_embedding", "model.query_position_embeddings"),
        *[
            (f"decoder.layers.#.{ours}.{name}_proj", f"{DECODER}.{theirs}_{name}_proj")
            for ours, theirs in (("self_attn", "sa"), ("cross_attn", "ca"))
            for name in PROJECTIONS
        ],
        ("decoder.layers.#.self_attn.out_proj", f"{DECODER}.self_attn.out_proj"),
        ("decoder.layers.#.cross_attn.out_proj", f"{DECODER}.encoder_attn.out_proj"),
        ("decoder.layers.#.ffn.layers.0.0", f"{DECODER}.mlp.fc1"),
        ("decoder.layers.#.ffn.layers.1", f"{DECODER}.mlp.fc2"),
        ("decoder.layers.#.norms.0", f"{DECODER}.self_attn_layer_norm"),
        ("decoder.layers.#.norms.1", f"{DECODER}.encoder_attn_layer_norm"),
        ("decoder.layers.#.norms.2", f"{DECODER}.final_layer_norm"),
        ("bbox_head.fc_cls", "class_labels_classifier"),
        ("bbox_head.reg_ffn.layers.0.0", "bbox_predictor.layers.0"),
        ("bbox_head.reg_ffn.layers.1", "bbox_predictor.layers.1"),
        ("bbox_head.fc_reg", "bbox_predictor.layers.2"),
    ]
)

SPELLED_OUT = ("query_content", "query_pos", "key_content", "key_pos", "value", "query_pos_sine")
DAB = Renaming(
    [
        *WHOLE,
        ("query_embedding", "model.query_refpoint_embeddings"),
        ("patterns", "model.patterns"),
        ("encoder.query_scale", "model.encoder.query_scale"),
        ("encoder.post_norm", "model.encoder.norm"),
        ("decoder.ref_anchor_head", "model.decoder.ref_anchor_head"),
        *[
            (f"decoder.layers.#.{part}.{ours}_proj", f"{DECODER}.{part}.{part}_{theirs}_proj")
            for part in ("self_attn", "cross_attn")
            for ours, theirs in zip(PROJECTIONS, SPELLED_OUT, strict=True)
        ],
        ("decoder.layers.#.self_attn.out_proj", f"{DECODER}.self_attn.self_attn.output_proj"),
        ("decoder.layers.#.cross_attn.out_proj", f"{DECODER}.cross_attn.cross_attn.output_proj"),
        ("decoder.layers.#.ffn.layers.0.0", f"{DECODER}.mlp.fc1"),
        ("decoder.layers.#.ffn.layers.0.1", f"{DECODER}.mlp.activation_fn"),
        ("decoder.layers.#.ffn.layers.1", f"{DECODER}.mlp.fc2"),
        ("decoder.layers.#.norms.0", f"{DECODER}.self_attn.self_attn_layer_norm"),
        ("decoder.layers.#.norms.1", f"{DECODER}.cross_attn.cross_attn_layer_norm"),
        ("decoder.layers.#.norms.2", f"{DECODER}.mlp.final_layer_norm"),
        ("bbox_head.fc_cls", "class_embed"),
        ("bbox_head.fc_reg", "bbox_predictor"),
    ]
)
REFINING = "model.decoder.bbox_embed."  # the same parameters as bbox_predictor, stored again

# transformers 5 keeps the projections in memory where 4.x and all files have sa_... and ca_...
IN_MEMORY = re.compile(
    r"(model\.decoder\.layers\.\d+\.)(self|encoder)_attn\.(?:([qk])_(content|pos|pos_sine)|v)_proj\."
)


def _file_name(key: str) -> str:
    found = IN_MEMORY.match(key)
    if found is None:
        return key
    layer, where, letter, kind = found.groups()
    projection = f"{letter}{kind}" if letter else "v"
    return f"{layer}{'sa' if where == 'self' else 'ca'}_{projection}_proj.{key[found.end() :]}"


def _conditional_to_ours(state: StateView, own: StateView) -> State:
    named = {modern_name(_file_name(key)): value for key, value in state.items()}
    return _to_ours(named, CONDITIONAL)


def _dab_to_ours(state: StateView, own: StateView) -> State:
    named = {
        modern_name(key).replace("backbone.model._backbone.", "backbone.model."): value
        for key, value in state.items()
        if not key.startswith(REFINING)
    }
    return _to_ours(named, DAB)


def _to_ours(named: StateView, names: Renaming) -> State:
    joined = join_projections(named)
    return {resnet_name(names.to_ours(key) or key): value for key, value in joined.items()}


def _conditional_to_theirs(state: StateView) -> State:
    return _to_theirs(state, CONDITIONAL, "backbone.conv_encoder.model.")


def _dab_to_theirs(state: StateView) -> State:
    return _to_theirs(state, DAB, "backbone.conv_encoder.model._backbone.")


def _to_theirs(state: StateView, names: Renaming, backbone: str) -> State:
    split = split_projections({names.to_theirs(key) or key: value for key, value in state.items()})
    return {_in_file(key, backbone): value for key, value in split.items()}


def _in_file(key: str, backbone: str) -> str:
    """The inverse of `modern_name`; only DAB-DETR's decoder has an `mlp` in files, too."""
    key = key.replace("backbone.model.", backbone).replace("_attn.o_proj.", "_attn.out_proj.")
    has_mlp = "_backbone" in backbone and key.startswith("model.decoder.")
    return key if has_mlp else key.replace(".mlp.fc", ".fc")


def _attends_conditionally(own: StateView) -> bool:
    return "decoder.layers.0.cross_attn.qpos_sine_proj.weight" in own


CONDITIONAL_DIALECTS = (
    Dialect(
        "hf-conditional-detr",
        lambda state, own: (
            _attends_conditionally(own) and "model.query_position_embeddings.weight" in state
        ),
        _conditional_to_ours,
        _conditional_to_theirs,
    ),
    Dialect(
        "hf-dab-detr",
        lambda state, own: (
            _attends_conditionally(own) and "model.query_refpoint_embeddings.weight" in state
        ),
        _dab_to_ours,
        _dab_to_theirs,
    ),
)
