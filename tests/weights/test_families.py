"""The descriptions of language-model families agree with the models they describe."""

from typing import Any

import pytest
import torch

from cupola.errors import CheckpointError
from cupola.parallel import shard_dims
from cupola.registry import build
from cupola.weights import load_weights
from cupola.weights.families import FAMILIES, LanguageFamily, family_of

BLOOM = {"type": "BloomForCausalLM", "vocab_size": 12, "hidden_size": 8, "n_layer": 2, "n_head": 2}
LLAMA = {
    "type": "LlamaForCausalLM",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "attention_bias": True,
}
MODELS = {"bloom": BLOOM, "llama": LLAMA}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> LanguageFamily:
    found: LanguageFamily = request.param
    return found


def model_of(family: LanguageFamily, **options: Any) -> Any:
    torch.manual_seed(3)
    return build({**MODELS[family.name], **options})


def test_what_ranks_split_is_what_the_layers_split(family: LanguageFamily) -> None:
    model = model_of(family)
    dims = shard_dims(model)
    for name, _ in model.named_parameters():
        assert family.split_dim(name) == dims.get(name), name


def test_names_go_there_and_back(family: LanguageFamily) -> None:
    names = [name for name, _ in model_of(family).named_parameters()]
    theirs = [family.their_key(name) for name in names]
    assert [family.our_key(key) for key in theirs] == names == [*map(family.our_key, names)]
    assert family_of(theirs, "x") is family_of(names, "x") is family


@pytest.mark.parametrize("trunk", [False, True], ids=["whole", "trunk"])
def test_a_checkpoint_is_recognized_with_or_without_its_prefix(
    family: LanguageFamily, trunk: bool
) -> None:
    model, other = (model_of(family, tie_word_embeddings=True) for _ in range(2))
    state = {family.their_key(key): value + 1 for key, value in model.state_dict().items()}
    if trunk:
        state = {key.removeprefix(family.prefix): value for key, value in state.items()}
    state["lm_head.weight"] = torch.zeros(12, 8)  # tied: the embedding once more
    if family.name == "llama":
        state[f"{'' if trunk else 'model.'}layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    report = load_weights(other, state)
    assert (report.dialect, report.missing, report.unexpected) == (f"{family.name}_hf", [], [])
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value + 1)


def test_other_checkpoints_belong_to_no_family() -> None:
    with pytest.raises(CheckpointError, match="belong to no language model"):
        family_of(["conv1.weight"], "x")
