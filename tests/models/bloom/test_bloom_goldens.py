"""BLOOM against the stored outputs of transformers: logits, hidden states, loss, gradients."""

import pytest
import torch
from bloom_cases import build

from cupola.generation import DenseCache
from cupola.generation.dense_attention import alibi_bias, positions
from cupola.models.bloom import BloomForCausalLM
from cupola.models.bloom.alibi import alibi_slopes
from cupola.runtime.optimize.language import optimize
from cupola.weights.families.bloom import BLOOM
from golden import Golden, golden


def model_of(about: Golden) -> BloomForCausalLM:
    return build(about.config["bloom"], about.weights())


@pytest.fixture(params=["bloom_tiny_h8", "bloom_tiny_h6"])
def about(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def batch_of(about: Golden, *, mask: bool = True) -> dict[str, torch.Tensor]:
    batch = {"input_ids": about.stored("input_ids"), "labels": about.stored("labels")}
    if mask:
        return batch | {"attention_mask": about.stored("attention_mask")}
    return batch


def test_logits(about: Golden) -> None:
    model, batch = model_of(about), batch_of(about)
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        ours = model(batch["input_ids"], batch["attention_mask"])
        unmasked = model(batch["input_ids"])
    assert (ours - about.output("logits"))[real].abs().max() < 5e-5
    assert about.difference("logits_no_mask", unmasked) < 5e-5
    assert torch.isfinite(ours).all()


def test_alibi(about: Golden) -> None:
    heads = about.config["bloom"]["n_head"]
    bias = alibi_bias(alibi_slopes(heads), positions(about.stored("attention_mask")))
    assert about.difference("alibi", bias.flatten(0, 1)) < 1e-6


@pytest.mark.parametrize("mask", [True, False])
def test_loss(about: Golden, mask: bool) -> None:
    loss = model_of(about).loss(batch_of(about, mask=mask))["loss"]
    assert about.difference("loss" if mask else "loss_no_mask", loss) < 1e-5


@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients(about: Golden, checkpoint: bool) -> None:
    config = about.config["bloom"] | {"checkpoint_activations": checkpoint}
    model = build(config, about.weights())
    model.loss(batch_of(about))["loss"].backward()
    ours = dict(model.named_parameters())
    names = [n for n in about.json["outputs"] if n.startswith("grad/")]
    assert len(names) >= 8
    for name in names:
        key = BLOOM.our_key(name.removeprefix("grad/"))
        assert about.relative(name, ours[key].grad) < 2e-5, name


def test_a_cached_step_equals_the_whole(about: Golden) -> None:
    model, batch = model_of(about), batch_of(about)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    real = mask == 1
    with torch.no_grad():
        whole, cache, pieces = model(ids, mask), DenseCache(), []
        for start, stop in ((0, 5), (5, 6), (6, ids.shape[1])):
            pieces.append(model(ids[:, start:stop], mask[:, :stop], cache))
    assert (torch.cat(pieces, 1) - whole)[real].abs().max() < 2e-5
    assert cache.length == ids.shape[1]


def test_layer_scaling_is_neutral(about: Golden) -> None:
    batch = batch_of(about)
    scaled = build(about.config["bloom"] | {"query_key_layer_scaling": True}, about.weights())
    with torch.no_grad():
        ours = scaled(batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"] == 1
    assert (ours - about.output("logits"))[real].abs().max() < 5e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)  # half a billion weights are drawn first
def test_560m_shape() -> None:
    about = golden("bloom_560m_shape")
    model, ids = model_of(about), about.stored("input_ids")
    with torch.no_grad():
        hidden = model.transformer(ids)
        last = model.logits(hidden[:, -1])
    assert about.difference("final_hidden", hidden) < 1e-4
    assert about.difference("last_logits", last) < 1e-4
    assert torch.equal(last.topk(10).indices, about.output("top10_ids"))
    for optimization in ("none", "packed"):
        optimize(model, optimization)
        written = model.generate(ids, max_tokens=8, ignore_eos=True)
        assert torch.equal(written, about.output("generated")), optimization
