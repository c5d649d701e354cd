"""A model built with weights: nothing drawn at random, nothing copied, all in place."""

import torch
from safetensors.torch import save_file

import cupola

TINY = {
    "type": "DETR",
    "num_queries": 5,
    "backbone": {"type": "SmallResNet", "channels": (8, 16), "strides": (1, 2)},
    "neck": {"type": "ChannelMapper", "in_channels": [16], "kernel_size": 1, "out_channels": 16},
    "encoder": {
        "num_layers": 1,
        "layer_cfg": {
            "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
            "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 32},
        },
    },
    "decoder": {
        "num_layers": 2,
        "layer_cfg": {
            "self_attn_cfg": {"embed_dims": 16, "num_heads": 2},
            "cross_attn_cfg": {"embed_dims": 16, "num_heads": 2},
            "ffn_cfg": {"embed_dims": 16, "feedforward_channels": 32},
        },
    },
    "positional_encoding": {"num_feats": 8, "normalize": True},
    "bbox_head": {"type": "DETRHead", "num_classes": 3, "embed_dims": 16},
}


def test_weights_come_from_the_file_whatever_their_type(tmp_path) -> None:
    source = cupola.build(TINY).eval()
    state = source.state_dict()
    save_file(state, tmp_path / "full.safetensors")
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        tmp_path / "half.safetensors",
    )
    torch.save({"state_dict": state}, tmp_path / "full.pth")
    pixels = torch.randn(1, 3, 32, 32)
    for name, tolerance in (("full.safetensors", 0), ("full.pth", 0), ("half.safetensors", 0.05)):
        model = cupola.build(TINY, weights=tmp_path / name).eval()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert not any(p.is_meta for p in model.parameters())
        assert all(p.requires_grad for p in model.parameters())
        with torch.no_grad():
            ours, theirs = model(pixels), source(pixels)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=tolerance)


def test_building_with_weights_draws_nothing(tmp_path) -> None:
    save_file(cupola.build(TINY).state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    cupola.build(TINY, weights=tmp_path / "w.safetensors")
    assert torch.equal(before, torch.get_rng_state())
