"""Grounding DINO and MM-Grounding-DINO against transformers, stage by stage."""

from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from cupola.bundles import Bundle
from cupola.models.bert import Tokens
from cupola.registry import build
from cupola.weights import load_weights
from lazy import LazyModule
from models.grounding.small import BERT, grounding_dino

transformers = LazyModule("transformers")
KINDS = {
    "GroundingDino": {},
    "MMGroundingDino": {"log_scale": "auto", "bias": True},
}
# transformers takes separators by the ids of the real vocabulary; the toy's are moved there.
SEPARATORS = [101, 102, 1012, 1029]
SIZES = {**BERT, "vocab_size": 1100}


def peer(kind: str) -> Any:
    """A small model whose weights are all random, none of them zero."""
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=3,
        out_indices=[2, 3, 4],
        drop_path_rate=0.0,
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        text_config=transformers.BertConfig(**SIZES),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=7,
        max_text_len=40,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
    )
    model = getattr(transformers, f"{kind}ForObjectDetection")(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or not parameter.any() or "fusion" in name:
            parameter.data += torch.randn_like(parameter) * 0.2
    return model.double().eval()


def texts() -> Tokens:
    """Two texts: three names, and one name of two words with padding after it."""
    rows = [
        [101, 5, 6, 1012, 7, 1012, 8, 9, 10, 1012, 102],
        [101, 11, 12, 1012, 102, 0, 0, 0, 0, 0, 0],
    ]
    ids = torch.tensor(rows)
    return Tokens(ids, ids != 0, torch.isin(ids, torch.tensor(SEPARATORS)))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.filterwarnings("ignore")
def test_every_stage(kind: str) -> None:
    torch.manual_seed(0)
    theirs = peer(kind)
    config = grounding_dino(KINDS[kind])
    config["language_model"]["config"] = SIZES
    model = build(config).eval()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        assert load_weights(model, folder).dialect == "hf-grounding-dino"
        bundle = Bundle.load(folder)
        bundled = build(bundle.model_config).eval()
        load_weights(bundled, folder)
    assert bundle.labels == () and bundle.task == "detection"
    model.double()
    tokens = texts()
    pixels = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 80:], mask[1, :, 100:] = True, True
    with torch.no_grad():
        wanted = theirs(
            pixel_values=pixels,
            pixel_mask=(~mask).long(),
            input_ids=tokens.ids,
            attention_mask=tokens.mask.long(),
            token_type_ids=torch.zeros_like(tokens.ids),
            output_hidden_states=True,
        )
        text = model.read(tokens)
        levels = model.levels(model.maps(pixels), mask)
        memory = model.encoder(levels, text)
        chosen = model.choose(memory, levels)
        decoded = model.decode_queries(memory, levels, chosen)
        found = model(pixels, mask, tokens)
        of_bundle = bundled.double()(pixels, mask, tokens)
    torch.testing.assert_close(of_bundle.boxes, found.boxes, rtol=0, atol=1e-6)
    close = {"rtol": 0, "atol": 2e-5}  # positions are float32 in both
    words = tokens.mask
    torch.testing.assert_close(text.embedded, wanted.encoder_text_hidden_states[0], **close)
    cells = ~levels.padding
    torch.testing.assert_close(
        memory.image[cells], wanted.encoder_last_hidden_state_vision[cells], **close
    )
    torch.testing.assert_close(
        memory.text[words], wanted.encoder_last_hidden_state_text[words], **close
    )
    torch.testing.assert_close(
        chosen.boxes.sigmoid(), wanted.init_reference_points, rtol=0, atol=1e-4
    )
    states = wanted.intermediate_hidden_states.transpose(0, 1)
    torch.testing.assert_close(decoded.states, states, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.logits[-1].float(), wanted.logits, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.boxes[-1], wanted.pred_boxes, rtol=0, atol=1e-4)
