"""Checkpoints of Deformable DETR, DINO and DDQ DETR: MMDetection 3.x and 2.x, and transformers.

Our own keys are those of MMDetection 3.x. A model built from a 2.x config has the nested keys of
2.x, and the last step of every translation renames to these.
"""

import re
from collections.abc import Iterable

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.hf_detr_parts import (
    join_projections,
    modern_name,
    resnet_name,
    split_projections,
)
from cupola.weights.renaming import Renaming

IN_HEAD = "bbox_head.transformer."
NESTED = Renaming(
    [
        ("level_embed", f"{IN_HEAD}level_embeds"),
        ("query_embedding", "bbox_head.query_embedding"),
        ("reference_points_fc", f"{IN_HEAD}reference_points"),
        ("memory_trans_fc", f"{IN_HEAD}enc_output"),
        ("memory_trans_norm", f"{IN_HEAD}enc_output_norm"),
        ("pos_trans_fc", f"{IN_HEAD}pos_trans"),
        ("pos_trans_norm", f"{IN_HEAD}pos_trans_norm"),
        ("encoder.layers.#.self_attn", f"{IN_HEAD}encoder.layers.#.attentions.0"),
        ("encoder.layers.#.ffn", f"{IN_HEAD}encoder.layers.#.ffns.0"),
        ("encoder.layers.#.norms", f"{IN_HEAD}encoder.layers.#.norms"),
        ("decoder.layers.#.self_attn", f"{IN_HEAD}decoder.layers.#.attentions.0"),
        ("decoder.layers.#.cross_attn", f"{IN_HEAD}decoder.layers.#.attentions.1"),
        ("decoder.layers.#.ffn", f"{IN_HEAD}decoder.layers.#.ffns.0"),
        ("decoder.layers.#.norms", f"{IN_HEAD}decoder.layers.#.norms"),
    ]
)

HF_LAYER = [("ffn.layers.0.0", "mlp.fc1"), ("ffn.layers.1", "mlp.fc2")]
ENCODER = [
    ("self_attn", "self_attn"),
    ("norms.0", "self_attn_layer_norm"),
    ("norms.1", "final_layer_norm"),
    *HF_LAYER,
]
DECODER = [
    ("self_attn.attn", "self_attn"),
    ("cross_attn", "encoder_attn"),
    ("norms.0", "self_attn_layer_norm"),
    ("norms.1", "encoder_attn_layer_norm"),
    ("norms.2", "final_layer_norm"),
    *HF_LAYER,
]
HF = Renaming(
    [
        ("backbone", "model.backbone.model"),
        ("level_embed", "model.level_embed"),
        ("query_embedding", "model.query_position_embeddings"),
        ("reference_points_fc", "model.reference_points"),
        ("memory_trans_fc", "model.enc_output"),
        ("memory_trans_norm", "model.enc_output_norm"),
        ("pos_trans_fc", "model.pos_trans"),
        ("pos_trans_norm", "model.pos_trans_norm"),
        ("neck.convs.#.conv", "model.input_proj.#.0"),
        ("neck.convs.#.gn", "model.input_proj.#.1"),
        *[(f"encoder.layers.#.{a}", f"model.encoder.layers.#.{b}") for a, b in ENCODER],
        *[(f"decoder.layers.#.{a}", f"model.decoder.layers.#.{b}") for a, b in DECODER],
        ("bbox_head.cls_branches.#", "class_embed.#"),
        ("bbox_head.reg_branches.#.0", "bbox_embed.#.layers.0"),
        ("bbox_head.reg_branches.#.2", "bbox_embed.#.layers.1"),
        ("bbox_head.reg_branches.#.4", "bbox_embed.#.layers.2"),
    ]
)
BRANCH = re.compile(r"bbox_head\.(cls|reg)_branches\.\d+\.")
# DDQ's decoder gets a reference to these branches while it trains, so files hold them twice.
STORED_TWICE = "decoder.aux_reg_branches."


def _levels(keys: Iterable[str]) -> int:
    """How many levels of the neck are maps of the backbone."""
    found = [re.match(r"neck\.convs\.(\d+)\.", key) for key in keys]
    return 1 + max((int(each[1]) for each in found if each), default=-1)


def _fit_spelling(state: State, own: StateView) -> State:
    if not any(key.startswith(IN_HEAD) for key in own):
        return state
    return {NESTED.to_theirs(key) or key: value for key, value in state.items()}


def _canonical(state: StateView) -> State:
    """Keys of 2.x -> keys of 3.x."""
    return {NESTED.to_ours(key) or key: value for key, value in state.items()}


def _from_mmdet(state: StateView, own: StateView) -> State:
    kept = {key: value for key, value in state.items() if not key.startswith(STORED_TWICE)}
    return _fit_spelling(_canonical(kept), own)


def _to_nested(state: StateView) -> State:
    return {NESTED.to_theirs(key) or key: value for key, value in _canonical(state).items()}


def _from_hf(state: StateView, own: StateView) -> State:
    modern = {
        modern_name(key).replace("model.decoder.class_embed.", "class_embed.")
        .replace("model.decoder.bbox_embed.", "bbox_embed."): value
        for key, value in state.items()
    }  # fmt: skip
    levels = _levels(own)
    named: State = {}
    for key, value in join_projections(modern).items():
        ours = resnet_name(HF.to_ours(key) or key)
        found = re.match(r"neck\.convs\.(\d+)(\..*)", ours)
        if found and int(found[1]) >= levels:
            ours = f"neck.extra_convs.{int(found[1]) - levels}{found[2]}"
        named[ours] = value
    for key in _canonical(own):
        first = BRANCH.sub(lambda found: f"bbox_head.{found[1]}_branches.0.", key)
        if BRANCH.match(key) and first in named:  # without refinement all layers share one branch
            named.setdefault(key, named[first])
    return _fit_spelling(named, own)


def _to_hf(state: StateView) -> State:
    """transformers' file names, with torchvision's names in the backbone (a timm backbone)."""
    state = _canonical(state)
    levels = _levels(state)
    in_decoder = "pos_trans_fc.weight" in state
    named: State = {}
    for key, value in state.items():
        found = re.match(r"neck\.extra_convs\.(\d+)(\..*)", key)
        key = f"neck.convs.{int(found[1]) + levels}{found[2]}" if found else key
        theirs = HF.to_theirs(key) or key
        if in_decoder and theirs.startswith(("class_embed.", "bbox_embed.")):
            theirs = f"model.decoder.{theirs}"
        named[theirs] = value
    return {
        key.replace("backbone.model.", "backbone.conv_encoder.model.")
        .replace("_attn.o_proj.", "_attn.out_proj.")
        .replace(".mlp.fc", ".fc"): value
        for key, value in split_projections(named).items()
    }


def _is_deformable(own: StateView) -> bool:
    return "bbox_head.cls_branches.0.weight" in own and any(
        key.endswith("sampling_offsets.weight") for key in own
    )


DEFORMABLE_DIALECTS = (
    Dialect(
        "hf-deformable-detr",
        lambda state, own: _is_deformable(own) and "model.level_embed" in state,
        _from_hf,
        _to_hf,
    ),
    Dialect(
        "mmdet2-deformable-detr",
        lambda state, own: _is_deformable(own) and f"{IN_HEAD}level_embeds" in state,
        _from_mmdet,
        _to_nested,
    ),
    Dialect(
        "mmdet3-deformable-detr",
        lambda state, own: _is_deformable(own) and "level_embed" in state,
        _from_mmdet,
        _canonical,
    ),
)
