"""Layers, embedding, loss and mappings against Megatron-DeepSpeed on the same number of ranks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import parallel
from cupola.generation.dense_attention import alibi_bias
from cupola.models.bloom.alibi import alibi_slopes
from cupola.models.bloom.gelu import bias_gelu
from cupola.parallel import Group, Mesh
from cupola.parallel.communicate import own_slice
from golden import golden
from goldens import seeded
from ranks import RankPool

TOLERANCE = 1e-5  # of the largest value


def given(name: str) -> Tensor:
    shape = golden("megatron_tp").json["inputs"][name]["shape"]
    return torch.from_numpy(seeded.seeded_input(name, shape)).requires_grad_()


def weight(key: str) -> Tensor:
    return golden("megatron_tp").weights()[key]


def column(group: Group, **options: Any) -> parallel.ColumnParallelLinear:
    layer = parallel.ColumnParallelLinear(24, 40, group=group, **options)
    with torch.no_grad():
        layer.weight.copy_(own_slice(weight("column.weight"), group, 0))
        layer.bias.copy_(own_slice(weight("column.bias"), group, 0))
    return layer


def row(group: Group, **options: Any) -> parallel.RowParallelLinear:
    layer = parallel.RowParallelLinear(40, 24, group=group, **options)
    with torch.no_grad():
        layer.weight.copy_(own_slice(weight("row.weight"), group, 1))
        layer.bias.copy_(weight("row.bias"))
    return layer


def backward(out: Tensor, cotangent: Tensor) -> None:
    (out * cotangent.detach()).sum().backward()


def run_column(group: Group) -> dict[str, Tensor]:
    found = {}
    for gather in (0, 1):
        for skip in (0, 1):
            layer, x = (
                column(group, gather_output=bool(gather), skip_bias_add=bool(skip)),
                given("x"),
            )
            out = layer(x)
            bias = None
            if skip:
                out, bias = out
            whole = given("cotangent_F")
            backward(out, whole if gather else own_slice(whole, group, -1))
            case = f"column/gather{gather}_skip{skip}"
            found |= {f"{case}/out": out, f"{case}/grad_x": x.grad}
            found[f"{case}/grad_weight"] = layer.weight.grad
            found[f"{case}/" + ("returned_bias" if skip else "grad_bias")] = (
                bias if skip else layer.bias.grad
            )
    return found


def run_row(group: Group) -> dict[str, Tensor]:
    found = {}
    for split in (0, 1):
        for skip in (0, 1):
            layer = row(group, input_is_parallel=bool(split), skip_bias_add=bool(skip))
            y = given("y").detach()
            y = (own_slice(y, group, -1) if split else y).clone().requires_grad_()
            out = layer(y)
            bias = None
            if skip:
                out, bias = out
            backward(out, given("cotangent_H"))
            case = f"row/parallel{split}_skip{skip}"
            found |= {f"{case}/out": out, f"{case}/grad_x": y.grad}
            found[f"{case}/grad_weight"] = layer.weight.grad
            found[f"{case}/" + ("returned_bias" if skip else "grad_bias")] = (
                bias if skip else layer.bias.grad
            )
    return found


def run_mlp(group: Group) -> dict[str, Tensor]:
    first, second, x = column(group, skip_bias_add=True), row(group, skip_bias_add=True), given("x")
    hidden = bias_gelu(*first(x))
    out, bias = second(hidden)
    backward(out + bias, given("cotangent_H"))
    return {
        "mlp/out": out + bias,
        "mlp/hidden": hidden,
        "mlp/grad_x": x.grad,
        "mlp/grad_w1": first.weight.grad,
        "mlp/grad_b1": first.bias.grad,
        "mlp/grad_w2": second.weight.grad,
        "mlp/grad_b2": second.bias.grad,
    }


def run_embedding(group: Group) -> dict[str, Tensor]:
    layer = parallel.VocabParallelEmbedding(64, 24, group=group)
    with torch.no_grad():
        layer.weight.copy_(own_slice(weight("embedding.weight"), group, 0))
    out = layer(golden("megatron_tp").stored("ids"))
    backward(out, given("cotangent_E"))
    found = {"embedding/norm0/out": out, "embedding/norm0/grad_weight": layer.weight.grad}
    layer.weight.grad = None
    scale, shift = (weight(f"embedding.norm.{n}").requires_grad_() for n in ("weight", "bias"))
    out = F.layer_norm(layer(golden("megatron_tp").stored("ids")), (24,), scale, shift)
    backward(out, given("cotangent_E"))
    return found | {
        "embedding/norm1/out": out,
        "embedding/norm1/grad_weight": layer.weight.grad,
        "embedding/norm1/grad_norm_weight": scale.grad,
        "embedding/norm1/grad_norm_bias": shift.grad,
    }


def run_cross_entropy(group: Group) -> dict[str, Tensor]:
    whole = 3 * given("logits").detach()
    logits = own_slice(whole, group, -1).clone().requires_grad_()
    before = logits.detach().clone()
    targets = golden("megatron_tp").stored("targets")
    loss = parallel.vocab_parallel_cross_entropy(logits, targets, group)
    backward(loss, given("cotangent_L"))
    assert torch.equal(logits.detach(), before), "the caller's logits were changed"
    return {"cross_entropy/loss": loss, "cross_entropy/grad_logits": logits.grad}


def run_mappings(group: Group) -> dict[str, Tensor]:
    times = group.rank + 1
    cases = {
        "copy": (parallel.copy_to_ranks, given("x"), times * given("cotangent_H")),
        "reduce": (parallel.reduce_from_ranks, times * given("x"), times * given("cotangent_H")),
        "scatter": (
            parallel.scatter_to_ranks,
            given("y"),
            own_slice(given("cotangent_F"), group, -1),
        ),
        "gather": (
            parallel.gather_from_ranks,
            own_slice(given("y"), group, -1),
            given("cotangent_F"),
        ),
    }
    found = {}
    for name, (mapping, x, cotangent) in cases.items():
        leaf = x.detach().clone().requires_grad_()
        out = mapping(leaf, group)
        backward(out, cotangent)
        found |= {f"mapping/{name}/out": out, f"mapping/{name}/grad": leaf.grad}
    return found


def run_alibi(group: Group) -> dict[str, Tensor]:
    found = {}
    for heads in (8, 12, 16):
        slopes = own_slice(alibi_slopes(heads), group, 0)
        bias = alibi_bias(slopes, torch.arange(10).expand(2, 10))  # [2, heads / P, 1, 10]
        found[f"alibi/heads{heads}"] = bias.flatten(0, 1)
    return found


def everything(mesh: Mesh) -> dict[str, Tensor]:
    group = mesh.tensor
    parts = (
        run_column, run_row, run_mlp, run_embedding, run_cross_entropy, run_mappings, run_alibi,
    )  # fmt: skip
    return {k: v.detach().clone() for part in parts for k, v in part(group).items()}


def compare(results: list[dict[str, Tensor]]) -> None:
    world, checked = len(results), 0
    outputs = golden("megatron_tp").json["outputs"]
    for rank, found in enumerate(results):
        for name, ours in found.items():
            key = f"tp{world}/rank{rank}/{name}"
            if key not in outputs:  # stored for rank 0 alone: equal on every rank
                assert f"tp{world}/{name}" in golden("megatron_tp").json["all_ranks_equal"]
                key = f"tp{world}/rank0/{name}"
            assert golden("megatron_tp").relative(key, ours) < TOLERANCE, key
            checked += 1
    expected = {k.split("/", 2)[2] for k in outputs if k.startswith(f"tp{world}/")}
    assert expected == set(results[0]), expected ^ set(results[0])
    assert checked >= 47 * world


def test_one_process_equals_the_original() -> None:
    compare([everything(Mesh())])


def test_ranks_equal_the_original(ranks: RankPool) -> None:
    compare(ranks.run(everything))


@pytest.mark.parametrize("name", ["out", "grad"])
def test_bias_gelu_equals_the_original(name: str) -> None:
    about = golden("megatron_bias_gelu")
    x, bias = about.stored("x").requires_grad_(), about.stored("bias")
    out = bias_gelu(x, bias)
    backward(out, about.stored("cotangent"))
    assert about.difference(name, out if name == "out" else x.grad) < 1e-5
