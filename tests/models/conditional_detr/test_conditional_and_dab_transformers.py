"""Conditional DETR and DAB-DETR against transformers, through the folders that it writes."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Sizes:
    width: int
    heads: int
    encoders: int
    decoders: int
    queries: int
    labels: int

    def hf(self) -> dict[str, Any]:
        """The arguments of a transformers config, with a tiny ResNet as backbone."""
        backbone = transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage4"],
        )
        return {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": backbone,
            "num_queries": self.queries,
            "encoder_layers": self.encoders,
            "decoder_layers": self.decoders,
            "encoder_attention_heads": self.heads,
            "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": 2 * self.width,
            "decoder_ffn_dim": 2 * self.width,
            "num_labels": self.labels,
        }

    def ours(self, activation: str = "ReLU") -> dict[str, Any]:
        """The arguments of our detectors."""
        attention = {"embed_dims": self.width, "num_heads": self.heads}
        ffn = {
            "embed_dims": self.width,
            "feedforward_channels": 2 * self.width,
            "act_cfg": {"type": activation},
        }
        cross = {**attention, "cross_attn": True}
        layer = {"self_attn_cfg": attention, "ffn_cfg": ffn}
        resnet = {"depth": 18, "stem_channels": 8, "base_channels": 8, "out_indices": (3,)}
        neck = {"in_channels": [64], "kernel_size": 1, "out_channels": self.width, "act_cfg": None}
        return {
            "num_queries": self.queries,
            "backbone": {"type": "ResNet", **resnet},
            "neck": {"type": "ChannelMapper", **neck},
            "encoder": {"num_layers": self.encoders, "layer_cfg": layer},
            "decoder": {
                "num_layers": self.decoders,
                "layer_cfg": {**layer, "cross_attn_cfg": cross},
            },
            "positional_encoding": {"num_feats": self.width // 2, "normalize": True},
        }

    def head(self, kind: str) -> dict[str, Any]:
        loss = {"type": "FocalLoss", "loss_weight": 2.0}
        return {
            "type": kind,
            "num_classes": self.labels,
            "embed_dims": self.width,
            "loss_cls": loss,
        }


def randomized(model: Any) -> Any:
    """In eval mode, with no zero parameters and no unit variances."""
    for parameter in model.parameters():
        if not parameter.any() or parameter.dim() < 2:
            torch.nn.init.normal_(parameter.data, 0.5, 0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def check(reference: Any, model: Any, fresh: Any, dialect: str, side: int) -> None:
    """Same outputs from the saved folder, and from what we write for transformers."""
    with TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        assert load_weights(model, folder).dialect == dialect
    pixels = torch.randn(2, 3, side, 64)
    mask = torch.zeros(2, side, 64, dtype=torch.bool)
    mask[1, :, 40:] = True
    with torch.no_grad():
        expected = reference(pixel_values=pixels, pixel_mask=(~mask).long())
        found = model(pixels, mask)
    torch.testing.assert_close(found.logits[-1], expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, rtol=0, atol=1e-5)
    for state in (reference.state_dict(), DIALECTS[dialect].to_theirs(model.state_dict())):
        assert load_weights(fresh, state).dialect == dialect
        for key, value in model.state_dict().items():
            torch.testing.assert_close(fresh.state_dict()[key], value, rtol=0, atol=0)


SIZES = st.builds(
    lambda size, *rest: Sizes(*size, *rest),
    st.sampled_from([(16, 2), (24, 4), (32, 8)]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 6),
)


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate], deadline=None)
@given(SIZES, st.booleans(), st.integers(33, 90))
@pytest.mark.filterwarnings("ignore")
def test_conditional_detr(sizes: Sizes, auxiliary_loss: bool, side: int) -> None:
    torch.manual_seed(side)
    config = transformers.ConditionalDetrConfig(
        d_model=sizes.width, auxiliary_loss=auxiliary_loss, **sizes.hf()
    )
    reference = randomized(transformers.ConditionalDetrForObjectDetection(config))
    ours = sizes.ours()
    ours["decoder"]["pass_normed"] = auxiliary_loss
    ours |= {"type": "ConditionalDETR", "bbox_head": sizes.head("ConditionalDETRHead")}
    check(reference, build(ours).eval(), build(ours), "hf-conditional-detr", side)


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate], deadline=None)
@given(SIZES, st.booleans(), st.integers(0, 3), st.sampled_from([20, 100]), st.integers(33, 90))
@pytest.mark.filterwarnings("ignore")
def test_dab_detr(
    sizes: Sizes, keep_query_pos: bool, patterns: int, temperature: int, side: int
) -> None:
    torch.manual_seed(side)
    config = transformers.DabDetrConfig(
        hidden_size=sizes.width,
        keep_query_pos=keep_query_pos,
        num_patterns=patterns,
        temperature_height=temperature,
        temperature_width=temperature,
        **sizes.hf(),
    )
    reference = randomized(transformers.DabDetrForObjectDetection(config))
    ours = sizes.ours("PReLU")
    ours["decoder"]["layer_cfg"]["cross_attn_cfg"]["keep_query_pos"] = keep_query_pos
    ours["positional_encoding"]["temperature"] = temperature
    head = {**sizes.head("DABDETRHead"), "reference_eps": 1e-5}
    ours |= {"type": "DABDETR", "num_patterns": patterns, "bbox_head": head}
    check(reference, build(ours).eval(), build(ours), "hf-dab-detr", side)
