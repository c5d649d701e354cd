"""Checkpoints of Grounding DINO and MM-Grounding-DINO as transformers saves them.

Our own keys are those of MMDetection 3.x.
"""

import re

import torch

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.swin import fit_windows, swin_of_hf
from cupola.weights.renaming import Renaming

BACKBONE = "model.backbone.conv_encoder.model."
TEXT = "language_model.language_backbone.body.model"
LABELS = "dn_query_generator.label_embedding.weight"  # of training, which transformers has not
SIDES = {"v": "vision", "l": "text"}
FUSION = [
    (f"attn.{ours.format(a)}", f"attn.{ours.format(b)}")
    for ours in ("{}_proj", "values_{}_proj", "out_{}_proj")
    for a, b in SIDES.items()
]
ENCODER = {
    "layers": (
        "deformable_layer",
        [
            ("self_attn", "self_attn"),
            ("ffn.layers.0.0", "fc1"),
            ("ffn.layers.1", "fc2"),
            ("norms.0", "self_attn_layer_norm"),
            ("norms.1", "final_layer_norm"),
        ],
    ),
    "text_layers": (
        "text_enhancer_layer",
        [
            ("self_attn.attn", "self_attn"),
            ("ffn.layers.0.0", "fc1"),
            ("ffn.layers.1", "fc2"),
            ("norms.0", "layer_norm_before"),
            ("norms.1", "layer_norm_after"),
        ],
    ),
    "fusion_layers": (
        "fusion_layer",
        [
            *[(f"gamma_{a}", f"{b}_param") for a, b in SIDES.items()],
            *[(f"layer_norm_{a}", f"layer_norm_{b}") for a, b in SIDES.items()],
            *FUSION,
        ],
    ),
}
DECODER = [
    ("self_attn.attn", "self_attn"),
    ("cross_attn_text.attn", "encoder_attn_text"),
    ("cross_attn", "encoder_attn"),
    ("ffn.layers.0.0", "fc1"),
    ("ffn.layers.1", "fc2"),
    ("norms.0", "self_attn_layer_norm"),
    ("norms.1", "encoder_attn_text_layer_norm"),
    ("norms.2", "encoder_attn_layer_norm"),
    ("norms.3", "final_layer_norm"),
]
HF = Renaming(
    [
        ("level_embed", "model.level_embed"),
        ("query_embedding", "model.query_position_embeddings"),
        ("memory_trans_fc", "model.enc_output"),
        ("memory_trans_norm", "model.enc_output_norm"),
        ("text_feat_map", "model.text_projection"),
        (TEXT, "model.text_backbone"),
        ("neck.convs.#.conv", "model.input_proj_vision.#.0"),
        ("neck.convs.#.gn", "model.input_proj_vision.#.1"),
        *[
            (f"encoder.{name}.#.{ours}", f"model.encoder.layers.#.{theirs}.{part}")
            for name, (theirs, pairs) in ENCODER.items()
            for ours, part in pairs
        ],
        *[(f"decoder.layers.#.{a}", f"model.decoder.layers.#.{b}") for a, b in DECODER],
        ("decoder.ref_point_head", "model.decoder.reference_points_head"),
        ("decoder.norm", "model.decoder.layer_norm"),
        ("bbox_head.cls_branches.#", "class_embed.#"),
        *[(f"bbox_head.reg_branches.#.{2 * i}", f"bbox_embed.#.layers.{i}") for i in range(3)],
    ]
)
COPIES = ("model.decoder.class_embed.", "model.decoder.bbox_embed.")
PARTS = ("query", "key", "value")
BRANCH = re.compile(r"bbox_head\.(cls|reg)_branches\.\d+\.")
ATTENTIONS = re.compile(r"model\.(?:en|de)coder\..*attn(?:_text)?\.(query|key|value)\.(\w+)")


def _levels(own: StateView) -> int:
    return len({key for key in own if re.fullmatch(r"neck\.convs\.\d+\.conv\.weight", key)})


def _joined(state: StateView) -> State:
    """query, key and value -> in_proj, and the encoder's branches as the last of all."""
    joined: State = {}
    for key, value in state.items():
        found = ATTENTIONS.fullmatch(key)
        if found is None:
            joined[key] = value
        elif found[1] == "query":
            parts = [state[key.replace(".query.", f".{each}.")] for each in PARTS]
            joined[key.replace(f".query.{found[2]}", f".in_proj_{found[2]}")] = torch.cat(parts)
    return joined


def _from_hf(state: StateView, own: StateView) -> State:
    layers = 1 + max(int(k.split(".")[2]) for k in own if k.startswith("decoder.layers."))
    levels, named = _levels(own), dict[str, torch.Tensor]()
    for key, value in _joined(state).items():
        if key.startswith(BACKBONE):
            continue
        if key.startswith(COPIES):
            key = key.removeprefix("model.decoder.")
        key = key.replace("model.encoder_output_bbox_embed.", f"bbox_embed.{layers}.")
        key = key.replace("model.encoder_output_class_embed.", f"class_embed.{layers}.")
        ours = HF.to_ours(key) or key
        found = re.match(r"neck\.convs\.(\d+)(\..*)", ours)
        if found and int(found[1]) >= levels:
            ours = f"neck.extra_convs.{int(found[1]) - levels}{found[2]}"
        named[ours] = value.reshape(1) if ours.startswith("bbox_head.cls_branches.") else value
    backbone = {k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)}
    swin = swin_of_hf(backbone).items()
    named |= {f"backbone.{key}": v for key, v in swin if not key.startswith("layernorm.")}
    for key in own:  # layers that share one branch have it in the file once
        first = BRANCH.sub(lambda found: f"bbox_head.{found[1]}_branches.0.", key)
        if key not in named and first in named:
            named[key] = named[first]
    if LABELS in own:
        named[LABELS] = torch.zeros(own[LABELS].shape)
    return fit_windows(named, own)


GROUNDING_DIALECTS = (
    Dialect(
        "hf-grounding-dino",
        lambda state, own: (
            "text_feat_map.weight" in own and "model.text_projection.weight" in state
        ),
        _from_hf,
    ),
)
