"""Deformable DETR against transformers, through the folders that it writes."""

from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from cupola.bundles import Bundle
from cupola.registry import build
from cupola.weights import DIALECTS, load_weights
from lazy import LazyModule
from models.deformable_detr.small import deformable_config

transformers = LazyModule("transformers")
DIALECT = "hf-deformable-detr"


def peer(refine: bool, two_stage: bool, levels: int, decoders: int) -> Any:
    """A tiny model with random weights, none of them zero."""
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        num_queries=7,
        num_feature_levels=levels,
        encoder_layers=2,
        decoder_layers=decoders,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_n_points=2,
        decoder_n_points=3,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_labels=3,
        with_box_refine=refine,
        two_stage=two_stage,
        two_stage_num_proposals=7,
    )
    model = transformers.DeformableDetrForObjectDetection(config)
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.any():
            parameter.data += torch.randn_like(parameter) * 0.2
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def ours(refine: bool, two_stage: bool, levels: int, decoders: int) -> dict[str, Any]:
    """Our config of the same model; transformers' projections have a bias before the norm."""
    attention = {"embed_dims": 32, "num_heads": 4}
    sampling = {**attention, "num_levels": levels}
    layer = {
        "self_attn_cfg": {**sampling, "num_points": 2},
        "ffn_cfg": {"embed_dims": 32, "feedforward_channels": 16},
    }
    cross = {
        **layer,
        "self_attn_cfg": attention,
        "cross_attn_cfg": {**sampling, "num_points": 3},
    }
    config = deformable_config(refine, two_stage)
    return {
        **config,
        "num_feature_levels": levels,
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "stem_channels": 8,
            "base_channels": 8,
            "out_indices": (1, 2, 3),
        },
        "neck": {
            **config["neck"],
            "in_channels": [16, 32, 64],
            "out_channels": 32,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "bias": True,
            "num_outs": levels,
        },
        "encoder": {"num_layers": 2, "layer_cfg": layer},
        "decoder": {"num_layers": decoders, "layer_cfg": cross},
        "positional_encoding": {"num_feats": 16, "normalize": True, "offset": -0.5},
        "bbox_head": {**config["bbox_head"], "embed_dims": 32},
    }


@pytest.mark.parametrize(
    ("refine", "two_stage", "levels", "decoders"),
    [(False, False, 4, 2), (True, False, 3, 3), (True, True, 4, 2)],
)
@pytest.mark.filterwarnings("ignore")
def test_same_outputs_from_the_saved_folder(
    refine: bool, two_stage: bool, levels: int, decoders: int
) -> None:
    torch.manual_seed(levels)
    shape = (refine, two_stage, levels, decoders)
    reference, model, fresh = peer(*shape), build(ours(*shape)).eval(), build(ours(*shape))
    with TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        assert load_weights(model, folder).dialect == DIALECT
        bundled = build(Bundle.load(folder).model_config).eval()
        load_weights(bundled, folder)
    pixels = torch.randn(2, 3, 96, 80)
    mask = torch.zeros(2, 96, 80, dtype=torch.bool)
    mask[1, 70:] = True
    mask[1, :, 50:] = True
    with torch.no_grad():
        expected = reference(pixel_values=pixels, pixel_mask=(~mask).long())
        found = model(pixels, mask)
        of_bundle = bundled(pixels, mask)
    torch.testing.assert_close(of_bundle.boxes, found.boxes, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits[-1], expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, rtol=0, atol=1e-5)
    for state in (reference.state_dict(), DIALECTS[DIALECT].to_theirs(model.state_dict())):
        assert load_weights(fresh, state).dialect == DIALECT
        for key, value in model.state_dict().items():
            torch.testing.assert_close(fresh.state_dict()[key], value, rtol=0, atol=0)
