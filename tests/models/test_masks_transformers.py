"""MaskFormer and Mask2Former of transformers: their folders and the same outputs, live."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.registry import build
from cupola.runtime.load import load_predictor
from cupola.weights import load_weights
from golden import golden
from lazy import LazyModule

transformers = LazyModule("transformers")
STAGES = [f"stage{i}" for i in range(1, 5)]
SWIN = {
    "embed_dim": 8,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 2, 4],
    "window_size": 3,
    "out_features": STAGES,
}
RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "out_features": STAGES,
}


def mask2former(kind: str) -> Any:
    backbone = (
        transformers.SwinConfig(**SWIN) if kind == "swin" else transformers.ResNetConfig(**RESNET)
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=40,
        num_attention_heads=4,
        num_queries=9,
        encoder_layers=2,
        decoder_layers=4,
        num_labels=6,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def maskformer(kind: str) -> Any:
    backbone = (
        transformers.SwinConfig(**SWIN) if kind == "swin" else transformers.ResNetConfig(**RESNET)
    )
    decoder = transformers.DetrConfig(
        d_model=32,
        decoder_layers=2,
        decoder_ffn_dim=40,
        decoder_attention_heads=4,
        num_queries=9,
    )
    config = transformers.MaskFormerConfig(
        backbone_config=backbone,
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=6,
    )
    return transformers.MaskFormerForInstanceSegmentation(config)


@pytest.mark.parametrize("kind", ["swin", "resnet"])
@pytest.mark.parametrize("make", [mask2former, maskformer])
def test_folders_load_and_give_the_same_outputs(make: Any, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = make(kind).double().eval()
    for name, parameter in peer.named_parameters():
        if "sampling_offsets" not in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    peer.save_pretrained(tmp_path)
    about = {"size": {"shortest_edge": 64, "longest_edge": 100}, "size_divisor": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    predictor = load_predictor(tmp_path)
    model = predictor.model.double()
    pixels = torch.randn(2, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        theirs = peer(pixels)
        ours = model(pixels)
    expected = theirs.class_queries_logits
    assert (ours.logits[-1] - expected).abs().max() < 1e-4 * expected.abs().max()
    expected = theirs.masks_queries_logits
    assert (ours.masks[-1] - expected).abs().max() < 1e-4 * expected.abs().max()
    assert predictor.labels[0] == "LABEL_0" and len(predictor.labels) == 6
    assert model.data_preprocessor.pad_size_divisor == 32
    model.float()
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    assert predictor(image, threshold=0.0).masks.shape[1:] == (40, 60)


def test_mmdet_2_checkpoints_load_into_3_and_back() -> None:
    for name in ("maskformer_resnet", "mask2former_swin"):
        modern = build(golden("masks_mmdet").json["cases"][name]["model"])
        swap = name.startswith("mask2former")
        first, second = ("cross_attn", "self_attn") if swap else ("self_attn", "cross_attn")
        old = {}
        for key, value in modern.state_dict().items():
            if "transformer_decoder.layers" in key:
                key = key.replace(f".{first}.", ".attentions.0.")
                key = key.replace(f".{second}.", ".attentions.1.").replace(".ffn.", ".ffns.0.")
            elif "pixel_decoder.encoder.layers" in key:
                key = key.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
            old[key] = value + 1 if value.is_floating_point() else value
        report = load_weights(modern, old)
        assert report.dialect == "masks_mmdet2"
        key = "panoptic_head.transformer_decoder.layers.0.cross_attn.attn.out_proj.bias"
        index = 0 if swap else 1
        assert torch.equal(
            modern.state_dict()[key], old[key.replace("cross_attn", f"attentions.{index}")]
        )
