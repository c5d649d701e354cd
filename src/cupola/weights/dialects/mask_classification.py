"""Checkpoints of MaskFormer and Mask2Former: MMDetection 2.x and transformers.

Our own keys are those of MMDetection 3.x, or of 2.x where the model was built from its config.
Nothing but the decoder's attentions differs between the two models in 2.x: the first one is the
self-attention in MaskFormer and the cross-attention in Mask2Former.
"""

import re

from cupola.weights.dialects.base import Dialect, State, StateView
from cupola.weights.dialects.hf_detr_parts import join_projections, modern_name, resnet_name
from cupola.weights.dialects.swin import fit_windows, swin_of_hf
from cupola.weights.renaming import Renaming

HEAD = "panoptic_head"
DECODER = f"{HEAD}.transformer_decoder.layers.#"
ENCODER = f"{HEAD}.pixel_decoder.encoder.layers.#"
PIXELS = f"{HEAD}.pixel_decoder"
QUERIES = f"{HEAD}.query_feat.weight"  # Mask2Former's alone


def _nested(first: str, second: str) -> Renaming:
    return Renaming(
        [
            (f"{ENCODER}.self_attn", f"{ENCODER}.attentions.0"),
            (f"{ENCODER}.ffn", f"{ENCODER}.ffns.0"),
            (f"{DECODER}.{first}", f"{DECODER}.attentions.0"),
            (f"{DECODER}.{second}", f"{DECODER}.attentions.1"),
            (f"{DECODER}.ffn", f"{DECODER}.ffns.0"),
        ]
    )


MASKFORMER_2X = _nested("self_attn", "cross_attn")
MASK2FORMER_2X = _nested("cross_attn", "self_attn")


def _is_nested(state: StateView) -> bool:
    return any(key.startswith(f"{HEAD}.transformer_decoder.layers.0.attentions.") for key in state)


def _is_ours(own: StateView) -> bool:
    return f"{HEAD}.cls_embed.weight" in own


def _renaming(state: StateView) -> Renaming:
    return MASK2FORMER_2X if QUERIES in state else MASKFORMER_2X


def _to_modern(state: StateView) -> State:
    names = _renaming(state)
    return {names.to_ours(key) or key: value for key, value in state.items()}


def _fit_spelling(state: StateView, own: StateView) -> State:
    """3.x keys, or 2.x keys where the model was built from a config of 2.x."""
    names = _renaming(state)
    if not _is_nested(own):
        return dict(state)
    return {names.to_theirs(key) or key: value for key, value in state.items()}


def _to_nested(state: StateView) -> State:
    names, modern = _renaming(state), _to_modern(state)
    return {names.to_theirs(key) or key: value for key, value in modern.items()}


HF_HEAD = [(f"{HEAD}.cls_embed", "class_predictor")]
HF_MASKFORMER = Renaming(
    [
        (f"{PIXELS}.last_feat_conv.conv", "model.pixel_level_module.decoder.fpn.stem.0"),
        (f"{PIXELS}.last_feat_conv.gn", "model.pixel_level_module.decoder.fpn.stem.1"),
        (f"{PIXELS}.lateral_convs.#.conv", "model.pixel_level_module.decoder.fpn.layers.#.proj.0"),
        (f"{PIXELS}.lateral_convs.#.gn", "model.pixel_level_module.decoder.fpn.layers.#.proj.1"),
        (f"{PIXELS}.output_convs.#.conv", "model.pixel_level_module.decoder.fpn.layers.#.block.0"),
        (f"{PIXELS}.output_convs.#.gn", "model.pixel_level_module.decoder.fpn.layers.#.block.1"),
        (f"{PIXELS}.mask_feature", "model.pixel_level_module.decoder.mask_projection"),
        (f"{HEAD}.query_embed", "model.transformer_module.queries_embedder"),
        (f"{HEAD}.decoder_input_proj", "model.transformer_module.input_projection"),
        *[
            (f"{DECODER}.{ours}", f"model.transformer_module.decoder.layers.#.{theirs}")
            for ours, theirs in {
                "self_attn.attn": "self_attn",
                "cross_attn.attn": "encoder_attn",
                "ffn.layers.0.0": "mlp.fc1",
                "ffn.layers.1": "mlp.fc2",
                "norms.0": "self_attn_layer_norm",
                "norms.1": "encoder_attn_layer_norm",
                "norms.2": "final_layer_norm",
            }.items()
        ],
        (
            f"{HEAD}.transformer_decoder.post_norm",
            "model.transformer_module.decoder.layernorm",
        ),
        *[(f"{HEAD}.mask_embed.{2 * i}", f"mask_embedder.{i}.0") for i in range(3)],
        *HF_HEAD,
    ]
)
HF_MASK2FORMER = Renaming(
    [
        (f"{PIXELS}.level_encoding.weight", "model.pixel_level_module.decoder.level_embed"),
        (
            f"{PIXELS}.input_convs.#.conv",
            "model.pixel_level_module.decoder.input_projections.#.0",
        ),
        (f"{PIXELS}.input_convs.#.gn", "model.pixel_level_module.decoder.input_projections.#.1"),
        *[
            (f"{ENCODER}.{ours}", f"model.pixel_level_module.decoder.encoder.layers.#.{theirs}")
            for ours, theirs in {
                "self_attn": "self_attn",
                "ffn.layers.0.0": "mlp.fc1",
                "ffn.layers.1": "mlp.fc2",
                "norms.0": "self_attn_layer_norm",
                "norms.1": "final_layer_norm",
            }.items()
        ],
        (f"{PIXELS}.mask_feature", "model.pixel_level_module.decoder.mask_projection"),
        (f"{PIXELS}.lateral_convs.0.conv", "model.pixel_level_module.decoder.adapter_1.0"),
        (f"{PIXELS}.lateral_convs.0.gn", "model.pixel_level_module.decoder.adapter_1.1"),
        (f"{PIXELS}.output_convs.0.conv", "model.pixel_level_module.decoder.layer_1.0"),
        (f"{PIXELS}.output_convs.0.gn", "model.pixel_level_module.decoder.layer_1.1"),
        (f"{HEAD}.query_embed", "model.transformer_module.queries_embedder"),
        (f"{HEAD}.query_feat", "model.transformer_module.queries_features"),
        (f"{HEAD}.level_embed", "model.transformer_module.level_embed"),
        (f"{HEAD}.decoder_input_projs", "model.transformer_module.input_projections"),
        *[
            (f"{DECODER}.{ours}", f"model.transformer_module.decoder.layers.#.{theirs}")
            for ours, theirs in {
                "self_attn.attn": "self_attn",
                "cross_attn.attn": "cross_attn",
                "ffn.layers.0.0": "mlp.fc1",
                "ffn.layers.1": "mlp.fc2",
                "norms.0": "cross_attn_layer_norm",
                "norms.1": "self_attn_layer_norm",
                "norms.2": "final_layer_norm",
            }.items()
        ],
        (
            f"{HEAD}.transformer_decoder.post_norm",
            "model.transformer_module.decoder.layernorm",
        ),
        *[
            (
                f"{HEAD}.mask_embed.{2 * i}",
                f"model.transformer_module.decoder.mask_predictor.mask_embedder.{i}.0",
            )
            for i in range(3)
        ],
        *HF_HEAD,
    ]
)
ENCODER_PREFIX = "model.pixel_level_module.encoder."


def _speaks_hf(state: StateView, own: StateView) -> bool:
    # without the prefix "model.", too, which a loader strips where all keys share it
    return _is_ours(own) and "class_predictor.weight" in state


def _from_hf(state: StateView, own: StateView) -> State:
    names = HF_MASK2FORMER if QUERIES in own else HF_MASKFORMER
    backbone: State = {}
    head: State = {}
    for key, value in state.items():
        if key.startswith(ENCODER_PREFIX):
            backbone[key.removeprefix(ENCODER_PREFIX)] = value
        elif not key.startswith("criterion."):
            head[modern_name(key)] = value
    renamed = {names.to_ours(key) or key: value for key, value in join_projections(head).items()}
    if names is HF_MASKFORMER:
        renamed = _from_fine_to_coarse(renamed)
    return _fit_spelling({**_backbone(backbone, own), **renamed}, own)


def _from_fine_to_coarse(state: State) -> State:
    """Lateral and output convolutions count from the coarsest map there, from the finest here."""
    pattern = re.compile(rf"({re.escape(PIXELS)}\.(?:lateral|output)_convs)\.(\d+)\.")
    last = max((int(found[2]) for key in state if (found := pattern.match(key))), default=0)
    return {
        pattern.sub(lambda found: f"{found[1]}.{last - int(found[2])}.", key): value
        for key, value in state.items()
    }


def _backbone(state: State, own: StateView) -> State:
    """transformers' Swin, MaskFormerSwin or ResNet, without the prefix of its keys -> ours."""
    if not any("relative_position_bias_table" in key for key in state):
        return {resnet_name(f"backbone.{key}"): value for key, value in state.items()}
    bare = {key.removeprefix("model."): value for key, value in state.items()}
    named = {f"backbone.{key}": value for key, value in swin_of_hf(bare).items()}
    return fit_windows(
        {key: value for key, value in named.items() if not key.startswith("backbone.layernorm.")},
        own,
    )


MASK_DIALECTS = (
    Dialect(
        "masks_mmdet2",
        lambda state, own: _is_ours(own) and _is_nested(state) and not _is_nested(own),
        lambda state, own: _to_modern(state),
        _to_nested,
    ),
    Dialect(
        "masks_mmdet3",
        lambda state, own: _is_ours(state) and not _is_nested(state) and _is_nested(own),
        _fit_spelling,
    ),
    Dialect("masks_hf", _speaks_hf, _from_hf),
)
