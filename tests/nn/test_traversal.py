"""Walks over a tree, against torch's on the same tree, and paths."""

import inspect
from typing import Any

import pytest
import torch

from cupola import nn


def tree(library: Any) -> Any:
    """Return a tree with a shared module, a shared parameter and an empty slot."""
    shared = library.Linear(2, 2)
    root = library.Sequential(library.Sequential(shared, library.ReLU()), shared)
    root.add_module("empty", None)
    root.again = shared.weight
    root.register_buffer("table", torch.zeros(1))
    root[0].register_buffer("table", root.table)
    return root


@pytest.mark.parametrize("dedupe", [True, False])
@pytest.mark.parametrize("prefix", ["", "top"])
def test_walks_agree_with_torch(dedupe: bool, prefix: str) -> None:
    ours, theirs = tree(nn), tree(torch.nn)
    for walk in ("named_modules", "named_parameters", "named_buffers"):
        kwargs = {"prefix": prefix, "remove_duplicate": dedupe}
        found = [name for name, _ in getattr(ours, walk)(**kwargs)]
        assert found == [name for name, _ in getattr(theirs, walk)(**kwargs)]
    assert [name for name, _ in ours.named_children()] == ["0", "1"]
    assert len(list(ours.modules(remove_duplicate=dedupe))) == (4 if dedupe else 5)


def test_own_members_only() -> None:
    ours = tree(nn)
    assert [name for name, _ in ours.named_parameters(recurse=False)] == ["again"]
    assert len(list(ours.parameters(recurse=False))) == 1
    assert len(list(ours.buffers(recurse=False))) == 1
    assert len(list(ours.buffers())) == 1


def test_a_memo_leaves_modules_out_and_learns() -> None:
    ours = tree(nn)
    memo = {ours[1]}
    assert [name for name, _ in ours.named_modules(memo)] == ["", "0", "0.1"]
    assert memo == set(ours.modules())


def test_named_members_takes_a_function() -> None:
    ours = tree(nn)
    found = list(ours._named_members(lambda m: m._parameters.items(), prefix="p"))
    assert [name for name, _ in found] == ["p.again", "p.0.0.bias"]
    assert len(list(ours._named_members(lambda m: m._buffers.items(), recurse=False))) == 1


def test_torch_modules_are_walked_through() -> None:
    root = nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm1d(2), nn.to_torch(nn.ReLU())))
    assert [name for name, _ in root.named_modules()] == ["", "0", "0.0", "0.1"]
    assert len(list(root.parameters())) == 2
    assert len(list(root.buffers())) == 3
    assert len(root.state_dict()) == 5


def test_apply_is_post_order() -> None:
    root = tree(nn)
    order: list[str] = []
    assert root.apply(lambda m: order.append(type(m).__name__)) is root
    assert order == ["Linear", "ReLU", "Sequential", "Linear", "Sequential"]


def test_paths() -> None:
    root = tree(nn)
    assert root.get_submodule("") is root
    assert root.get_submodule("0.1") is root[0][1]
    assert root.get_parameter("0.0.weight") is root[1].weight
    assert root.get_buffer("0.table") is root.table
    root.set_submodule("0.1", nn.Tanh())
    assert isinstance(root[0][1], nn.Tanh)
    root.set_submodule("0.fresh", nn.Tanh())
    assert "fresh" in root[0]._modules


@pytest.mark.parametrize(
    ("call", "arguments", "error", "message"),
    [
        ("get_submodule", ("0.7",), AttributeError, "Sequential has no attribute `7`"),
        ("get_submodule", ("0.table",), AttributeError, "`table` is not an nn.Module"),
        ("get_parameter", ("0.0.w",), AttributeError, "Linear has no attribute `w`"),
        ("get_parameter", ("0.table",), AttributeError, "`table` is not an nn.Parameter"),
        ("get_buffer", ("0.0.weight",), AttributeError, "`weight` is not a buffer"),
        ("set_submodule", ("", nn.ReLU()), ValueError, "without a target name"),
        ("set_submodule", ("0.1", 3), ValueError, "`module` is not an nn.Module"),
        ("set_submodule", ("0.table", nn.ReLU()), AttributeError, "is not an nn.Module"),
        ("set_submodule", ("0.7", nn.ReLU(), True), AttributeError, "has no attribute `7`"),
    ],
)
def test_paths_that_lead_nowhere(
    call: str, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(tree(nn), call)(*arguments)


def test_layers_that_are_torchs_own_work_as_children() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(3, 4)
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.memory(x)[0])

    tagger = Tagger()
    tagger(torch.randn(5, 1, 3)).sum().backward()
    assert all(p.grad is not None for p in tagger.parameters())
    assert "memory.weight_ih_l0" in tagger.state_dict()


def test_walks_are_generators() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    for name in ("parameters", "buffers", "modules", "children"):
        assert inspect.isgenerator(getattr(module, name)())
        assert inspect.isgenerator(getattr(module, f"named_{name}")())


def test_the_first_parameter_comes_before_the_walk() -> None:
    """`next(model.parameters())` does not visit what comes after the first parameter."""

    model = nn.Sequential(nn.ReLU(), nn.Linear(1, 1), nn.Linear(1, 1))
    later = model[2]
    first = model[1].weight
    members = later.__dict__.pop("_parameters")
    later.__dict__["_parameters"] = 1  # a module that cannot be visited
    assert next(model.parameters()) is first
    assert next(model.named_parameters()) == ("1.weight", first)
    assert next(model.modules()) is model
    later.__dict__["_parameters"] = members
    assert [name for name, _ in model.named_parameters()] == [
        f"{i}.{name}" for i in (1, 2) for name in ("weight", "bias")
    ]
    assert not list(nn.Sequential(nn.ReLU()).parameters())


@pytest.mark.parametrize("library", [nn, torch.nn], ids=["cupola", "torch"])
def test_a_walk_reads_no_further_than_it_is_asked(library: Any) -> None:
    model = library.Sequential(*[library.Linear(1, 1) for _ in range(3)])
    later = library.Bilinear(1, 1, 1)
    modules, members = model.named_modules(), model.named_parameters()
    children = model.children()
    for walk in (modules, members, children):
        next(walk)
    model[2] = later
    assert [module for _, module in modules][-1] is later
    assert [path for path, _ in members][-2:] == ["2.weight", "2.bias"]
    assert list(children)[-1] is later


def test_a_module_may_get_members_while_it_is_walked() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    for module in model.modules():
        module.register_buffer("seen", torch.zeros(1))
    for _, parameter in model[0].named_parameters():
        model[0].register_buffer(f"b{parameter.dim()}", torch.zeros(1))
    assert set(dict(model.named_buffers())) == {"seen", "0.seen", "0.b2", "0.b1", "1.seen"}
