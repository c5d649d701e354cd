"""BERT against transformers, and the masks of sub-sentences against plain loops."""

from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError
from cupola.models.bert import Tokens, pad_tokens, sub_sentence_mask
from cupola.registry import build
from cupola.weights import load_weights
from lazy import LazyModule

transformers = LazyModule("transformers")
SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
SPECIAL = {"use_sub_sentence_represent": True, "special_tokens_list": ["[CLS]", "[SEP]", "."]}
PREFIX = "language_backbone.body.model."


def pair(**options: Any) -> tuple[Any, Any]:
    """Our model and transformers', with the same random weights, in float64."""
    torch.manual_seed(0)
    pooler = options.get("add_pooling_layer", False)
    peer = transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=pooler)
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = build(
        {"type": "BertModel", "name": "tiny", "config": SIZES, "max_tokens": 16, **options}
    )
    state = {PREFIX + key: value for key, value in peer.state_dict().items()}
    state[PREFIX + "embeddings.position_ids"] = torch.arange(32)[None]  # of old checkpoints
    load_weights(ours, state)
    return ours.double().eval(), peer.double().eval()


def texts() -> Tokens:
    """Two texts of 9 and 6 tokens; 1, 2 and 3 are [CLS], [SEP] and the full stop."""
    rows = [[1, 7, 8, 3, 9, 3, 10, 3, 2], [1, 20, 3, 21, 3, 2]]
    return pad_tokens(rows, [1, 2, 3])


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_plain_texts(layers: int) -> None:
    ours, peer = pair(num_layers_of_embedded=layers, add_pooling_layer=True)
    tokens = texts()
    found = ours(tokens)
    wanted = peer(tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True)
    last = torch.stack(wanted.hidden_states[-layers:]).mean(0) / layers
    assert torch.allclose(found.embedded, last * tokens.mask[..., None], atol=1e-9)
    kept = tokens.mask
    assert torch.allclose(found.hidden[kept], wanted.last_hidden_state[kept], atol=1e-9)
    assert found.attention is None


@torch.no_grad()
def test_sub_sentences() -> None:
    ours, peer = pair(**SPECIAL)
    tokens = texts()
    found = ours(tokens)
    sees, positions = sub_sentence_mask(tokens.separators)
    wanted = peer(tokens.ids, attention_mask=sees[:, None], position_ids=positions)
    assert torch.allclose(found.embedded, wanted.last_hidden_state, atol=1e-9)
    assert torch.equal(found.attention, sees)


def by_loops(separators: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The original's procedure, one separator after the other."""
    B, T = separators.shape
    sees = torch.eye(T, dtype=torch.bool).repeat(B, 1, 1)
    positions = torch.zeros(B, T, dtype=torch.int64)
    for row in range(B):
        before = 0
        for column in range(T):
            if not separators[row, column]:
                continue
            if 0 < column < T - 1:
                inside = slice(before + 1, column + 1)
                sees[row, inside, inside] = True
                positions[row, inside] = torch.arange(column - before)
            before = column
    return sees, positions


def test_sub_sentence_masks() -> None:
    random = torch.Generator().manual_seed(0)
    for T in (1, 2, 5, 12):
        separators = torch.rand(30, T, generator=random) < 0.3
        separators[:, 0] = True  # [CLS]
        found, wanted = sub_sentence_mask(separators), by_loops(separators)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_the_published_sizes_need_no_download() -> None:
    with nn.on_meta():
        state = build({"type": "BertModel", "name": "/models/bert-base-uncased"}).state_dict()
        large = build({"type": "BertModel", "name": "bert-large-cased"}).state_dict()
    assert len(state) == 197 and sum(v.numel() for v in state.values()) == 108_891_648
    assert len(large) == 389


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "bert-base-uncase"}, "did you mean 'bert-base-uncased'"),
        ({"config": {"hiden_size": 3}}, "no setting 'hiden_size'"),
        ({"config": {"hidden_act": "relu"}}, "only hidden_act='gelu'"),
        ({"config": {"hidden_size": 10}}, "not a multiple"),
        ({"use_sub_sentence_represent": True}, "needs special_tokens_list"),
        ({"num_layers_of_embedded": 13}, "has 12 layers"),
        ({"max_tokens": 513}, "has 512 positions"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message), nn.on_meta():
        build({"type": "BertModel", **options})
