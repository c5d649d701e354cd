"""The options of the Megatron language model that BLOOM does not use, and wrong settings."""

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError, InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.models.bloom import BloomForCausalLM, BloomModel, BloomSettings
from cupola.models.bloom.embedding import Pooler
from cupola.parallel import Group
from cupola.registry import build

SMALL = {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 4, "initializer_range": 0.4}


def trunk(**options: object) -> BloomModel:
    torch.manual_seed(0)
    return BloomModel(BloomSettings(**SMALL, **options)).eval()


def test_positions_and_token_types_are_added() -> None:
    model = trunk(max_position_embeddings=8, num_token_types=2)
    ids = torch.tensor([[3, 4, 5]])
    types = torch.tensor([[0, 1, 1]])
    table = model.embedding
    words = table.word(ids) + table.position.weight[:3] + table.token_type.weight[types]
    assert torch.allclose(table(ids, torch.arange(3)[None], types), table.norm(words))
    with pytest.raises(InputError, match="9 tokens, but 8 positions"):
        model(torch.ones(1, 9, dtype=torch.long))
    with pytest.raises(InputError, match="num_token_types is 0"):
        trunk()(ids, token_types=types)


def test_learned_positions_survive_generation_in_chunks() -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(**SMALL, max_position_embeddings=32, alibi=False).eval()
    ids = torch.randint(0, 40, (1, 9))
    whole = ids
    with torch.no_grad():
        for _ in range(6):
            whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(ids, max_tokens=6, chunk=4, ignore_eos=True), whole)


def test_the_pooler_reads_one_token() -> None:
    model = trunk(add_pooler=True)
    assert isinstance(model.pooler, Pooler)
    hidden = model(torch.tensor([[1, 2, 3]]))
    dense = model.pooler.dense
    expected = torch.tanh(hidden[:, 0] @ dense.weight.t() + dense.bias)
    assert torch.allclose(model.pool(hidden), expected, atol=1e-6)
    with pytest.raises(BuildError, match="set add_pooler=True"):
        trunk().pool(hidden)


def test_documents_in_one_row_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(**SMALL).eval()
    first, second = torch.randint(0, 40, (1, 5)), torch.randint(0, 40, (1, 4))
    packed = torch.cat([first, second], 1)
    documents = torch.tensor([[0] * 5 + [1] * 4])
    apart = torch.cat([model.transformer(first), model.transformer(second)], 1)
    together = model.transformer(packed, documents=documents)
    assert torch.allclose(together, apart, atol=1e-5)
    batch = {"input_ids": packed, "labels": packed}
    plain, separate = (model.loss(batch | more)["loss"] for more in ({}, {"documents": documents}))
    assert (plain - separate).abs() > 1e-3
    separate.backward()  # gradients pass through the mask as well


def test_kinds_of_gelu_are_as_far_apart_as_they_should_be() -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.enable_grad():
        tanh, torchs, erf = (trunk(gelu=g)(ids) for g in ("tanh", "tanh_torch", "erf"))
    assert (tanh - torchs).abs().max() < 1e-4
    assert 1e-5 < (tanh - erf).abs().max() < 1e-1


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ((24, 1024, 16), 559_214_592),
        ((24, 1536, 16), 1_065_314_304),
        ((24, 2048, 16), 1_722_408_960),
        ((30, 2560, 32), 3_002_557_440),
        ((30, 4096, 32), 7_069_016_064),
        ((70, 14336, 112), 176_247_271_424),
    ],
)
def test_sizes_of_the_published_configs(sizes: tuple[int, int, int], parameters: int) -> None:
    layers, hidden, heads = sizes
    config = {"n_layer": layers, "hidden_size": hidden, "n_head": heads}
    with nn.on_meta():
        model = build({"type": "BloomForCausalLM", **config})
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("ranks", [1, 2])
def test_built_without_data_nothing_is_drawn(ranks: int) -> None:
    before = torch.get_rng_state()
    with nn.on_meta():
        model = BloomForCausalLM(**SMALL, group=Group("tensor", tuple(range(ranks)), ranks - 1))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_older_names_of_the_same_sizes() -> None:
    old = {"n_embed": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 40}
    settings = BloomSettings.from_config(old | {"model_type": "bloom", "seq_length": 2048})
    assert (settings.hidden_size, settings.n_head, settings.n_layer) == (16, 4, 2)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"hiden_size": 4}, "BLOOM has no setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"hidden_size": 10, "n_head": 4}, "hidden_size 10 is not a multiple of n_head 4"),
        ({"gelu": "relu"}, "gelu must be tanh, tanh_torch or erf, not 'relu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings must be true"),
    ],
)
def test_wrong_settings_are_named(config: dict, text: str) -> None:
    with pytest.raises(BuildError, match=text):
        BloomSettings.from_config(config)


def test_bfloat16_generates() -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(**SMALL, dtype="bfloat16").eval()
    scheduler = Scheduler(model, cache_tokens=64)
    scheduler.add("x", [1, 2, 3], SamplingParams(max_tokens=4, ignore_eos=True))
    tokens = [token for _ in range(4) for token in scheduler.step()]
    assert len(tokens) == 4
    assert scheduler.cache.keys[0].dtype == torch.bfloat16
