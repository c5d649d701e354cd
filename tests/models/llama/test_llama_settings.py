"""Published configs of the LLaMA family: what is read, and what is refused by name."""

from typing import Any

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.generation import SamplingParams, Scheduler
from cupola.models.llama import (
    LlamaForCausalLM,
    LlamaSettings,
    MistralForCausalLM,
    Qwen2ForCausalLM,
)
from cupola.models.llama.settings import RopeSettings

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
    ],
)
def test_rope_settings_of_every_age(config: dict[str, Any]) -> None:
    expected = RopeSettings(rope_theta=5e5, rope_type="linear", factor=2.0)
    assert LlamaSettings.from_config(config).rope == expected


def test_without_scaling() -> None:
    assert LlamaSettings.from_config({"rope_scaling": None}).rope == RopeSettings()
    assert LlamaSettings.from_config({"rope_theta": 1e6}).rope == RopeSettings(rope_theta=1e6)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"hiden_size": 4}, "LLaMA has no setting 'hiden_size'; did you mean 'hidden_size'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, only 'silu'"),
        ({"rope_scaling": {"type": "yarn"}}, "rope scaling 'yarn' is not supported, only linear"),
        ({"rope_parameters": {"faktor": 2}}, "no setting 'faktor'; did you mean 'factor'"),
        ({"hidden_size": 96, "num_attention_heads": 32}, "head_dim 3 is odd; rotary embedding"),
        ({"hidden_size": 10}, "hidden_size 10 is not a multiple of num_attention_heads 32"),
        ({"num_key_value_heads": 5}, "heads 32 is not a multiple of num_key_value_heads 5"),
        ({"sliding_window": 16}, "sliding_window 16 is not supported: .* Set max_position_emb"),
        ({"quantization_config": {}}, "LLaMA has no setting 'quantization_config'"),
    ],
)
def test_wrong_settings_are_named(config: dict[str, Any], text: str) -> None:
    with pytest.raises(BuildError, match=text):
        LlamaSettings.from_config(config)


WINDOW = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    ("kind", "config", "refused"),
    [
        (MistralForCausalLM, {"sliding_window": 8}, True),
        (MistralForCausalLM, {"sliding_window": 32}, False),
        (MistralForCausalLM, {"sliding_window": None}, False),
        (Qwen2ForCausalLM, {"sliding_window": 8}, False),  # off by default
        (Qwen2ForCausalLM, WINDOW, True),
        (Qwen2ForCausalLM, {**WINDOW, "max_window_layers": 1}, True),
        (Qwen2ForCausalLM, {**WINDOW, "max_window_layers": 2}, False),  # no layer is left
        (Qwen2ForCausalLM, {**WINDOW, "layer_types": ["full_attention"] * 2}, False),
    ],
)
def test_a_sliding_window_is_refused_where_it_cuts(
    kind: type[LlamaForCausalLM], config: dict[str, Any], refused: bool
) -> None:
    if refused:
        with pytest.raises(BuildError, match="sliding_window 8 is not supported"):
            kind(**SMALL, **config)
    else:
        assert kind(**SMALL, **config).settings.max_length == 32


def test_families_differ_in_their_biases() -> None:
    llama, qwen = LlamaForCausalLM(**SMALL), Qwen2ForCausalLM(**SMALL)
    more = set(dict(qwen.named_parameters())) - set(dict(llama.named_parameters()))
    assert {name.rsplit(".", 2)[1] for name in more} == {"q_proj", "k_proj", "v_proj"}
    assert MistralForCausalLM(**SMALL).state_dict().keys() == llama.state_dict().keys()


def test_a_text_is_no_longer_than_the_model_allows() -> None:
    scheduler = Scheduler(LlamaForCausalLM(**SMALL), cache_tokens=64)
    with pytest.raises(InputError, match="exceed the 32 tokens of the model"):
        scheduler.add("x", [1] * 20, SamplingParams(max_tokens=13))
    scheduler.add("x", [1] * 20, SamplingParams(max_tokens=12))


@pytest.mark.parametrize(("end", "expected"), [(None, set()), (2, {2}), ([2, 7], {2, 7})], ids=str)
def test_several_tokens_may_end_a_text(end: Any, expected: set[int]) -> None:
    assert LlamaSettings(eos_token_id=end).end_token_ids == expected


def test_bfloat16_keeps_exact_angles() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(**SMALL, initializer_range=0.3).eval()
    ids = torch.randint(0, 20, (1, 30))
    with torch.no_grad():
        expected = model(ids)
        found = model.bfloat16()(ids)
    assert model.layers[0].self_attn.rotary.frequencies.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
