"""The data flow inside a module, traced from a pass."""

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.bundles import Bundle
from cupola.cli.explained_model import build_model
from cupola.inspect import describe

Edges = set[tuple[str, str]]


class Branches(nn.Module):
    """A residual, a table that is read, a part that is written into a view, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.last = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x + self.table.weight[:2])
        for layer in self.layers:
            y = y + layer(y)
        out = torch.zeros(2, 4)
        out[:1] = self.last(y)[:1] * self.scale
        return out @ self.table.weight.T


def flow_of(model: object, path: str = "", **inputs: Tensor) -> tuple[tuple[str, ...], Edges]:
    flow = describe(model, inputs).node(path).flow
    assert flow is not None
    return flow.names, set(flow.edges)


def test_edges_are_those_of_the_tensors() -> None:
    names, edges = flow_of(Branches(), x=torch.ones(2, 4))
    assert names == (">x", "table", "first", "layers.0", "layers.1", "last", "scale", "<")
    assert edges == {
        (">x", "first"),
        ("table", "first"),
        ("first", "layers.0"),
        ("first", "layers.1"),
        ("layers.0", "layers.1"),
        ("first", "last"),
        ("layers.0", "last"),
        ("layers.1", "last"),
        ("last", "<"),
        ("scale", "<"),
        ("table", "<"),
    }


def test_flops_outside_of_the_children_and_their_weights() -> None:
    root = describe(Branches(), {"x": torch.ones(2, 4)}).root
    assert (root.own_flops, root.own_weights) == (2 * 2 * 4 * 6, ("scale", "table.weight"))
    assert root.children[1].own_flops == 2 * 2 * 4 * 4


def test_a_module_that_returns_its_input_and_one_that_is_called_twice() -> None:
    twice = nn.Linear(3, 3)
    names, edges = flow_of(nn.Sequential(twice, nn.Identity(), twice), input=torch.ones(1, 3))
    assert names == (">input", "0", "1", "<")
    assert {(">input", "0"), ("0", "1"), ("1", "0"), ("0", "<")} == edges


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("detr-digits", "", {("positional_encoding", "decoder"), ("query_embedding", "decoder")}),
        ("detr-digits", "decoder.layers.1", {(">", "cross_attn"), ("norms.0", "cross_attn")}),
        ("afno-navier-stokes", "", {("pos_embed", "pos_drop"), (">x", "<")}),
        ("bloom-tiny", "transformer", {("embedding", "blocks.0"), ("blocks.2", "blocks.3")}),
    ],
)
def test_flows_of_shipped_models(name: str, path: str, expected: Edges) -> None:
    model = build_model(name, Bundle.load(name), [])
    flow = describe(model, run=True).node(path).flow
    assert flow is not None
    assert expected <= set(flow.edges), flow.edges
