"""DETR against transformers itself, on tiny random configs, through the folder that it writes."""

from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cupola.registry import build
from cupola.weights import DIALECTS, load_weights
from lazy import LazyModule

transformers = LazyModule("transformers")


def peer(width: int, heads: int, encoders: int, decoders: int, queries: int, labels: int) -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=queries,
        d_model=width,
        encoder_layers=encoders,
        decoder_layers=decoders,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        num_labels=labels,
    )
    model = transformers.DetrForObjectDetection(config).eval()
    for buffer in (b for n, b in model.named_buffers() if n.endswith("running_var")):
        buffer.uniform_(0.5, 1.5)
    return model


def ours(width: int, heads: int, encoders: int, decoders: int, queries: int, labels: int) -> Any:
    attention = {"embed_dims": width, "num_heads": heads}
    ffn = {"embed_dims": width, "feedforward_channels": 2 * width}
    layer = {"self_attn_cfg": attention, "ffn_cfg": ffn}
    return build(
        {
            "type": "DETR",
            "num_queries": queries,
            "backbone": {
                "type": "ResNet",
                "depth": 18,
                "stem_channels": 8,
                "base_channels": 8,
                "out_indices": (3,),
            },
            "neck": {
                "type": "ChannelMapper",
                "in_channels": [64],
                "kernel_size": 1,
                "out_channels": width,
                "act_cfg": None,
            },
            "encoder": {"num_layers": encoders, "layer_cfg": layer},
            "decoder": {
                "num_layers": decoders,
                "layer_cfg": {**layer, "cross_attn_cfg": attention},
            },
            "positional_encoding": {"num_feats": width // 2, "normalize": True},
            "bbox_head": {"type": "DETRHead", "num_classes": labels, "embed_dims": width},
        }
    ).eval()


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from([(16, 2), (24, 4), (32, 8)]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(33, 90),
)
@pytest.mark.filterwarnings("ignore")
def test_same_outputs_from_the_folder_that_transformers_wrote(
    size: tuple[int, int], encoders: int, decoders: int, queries: int, labels: int, side: int
) -> None:
    torch.manual_seed(side)
    sizes = (*size, encoders, decoders, queries, labels)
    reference, model = peer(*sizes), ours(*sizes)
    with TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        assert load_weights(model, folder).dialect == "hf-detr"
    pixels = torch.randn(2, 3, side, 64)
    mask = torch.zeros(2, side, 64, dtype=torch.bool)
    mask[1, :, 40:] = True
    with torch.no_grad():
        expected = reference(pixel_values=pixels, pixel_mask=(~mask).long())
        found = model(pixels, mask)
    torch.testing.assert_close(found.logits[-1], expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, rtol=0, atol=1e-5)

    again = ours(*sizes)
    assert (
        load_weights(again, DIALECTS["hf-detr"].to_theirs(model.state_dict())).dialect == "hf-detr"
    )
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
