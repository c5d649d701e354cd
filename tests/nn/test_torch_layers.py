"""Layers of torch.nn work as children of cupola modules."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.nn.layers import torch_layers
from cupola.registry import Registry
from cupola.registry.registries import build_sequential

NAMES = sorted(name for name in vars(torch_layers) if not name.startswith("_"))

# name, constructor arguments, input shapes: layers with parameters, buffers, or two inputs
CASES: list[tuple[str, dict[str, Any], list[tuple[int, ...]]]] = [
    ("Bilinear", {"in1_features": 3, "in2_features": 4, "out_features": 2}, [(5, 3), (5, 4)]),
    ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3}, [(2, 4, 9)]),
    ("ConvTranspose2d", {"in_channels": 4, "out_channels": 2, "kernel_size": 3}, [(2, 4, 5, 5)]),
    ("BatchNorm3d", {"num_features": 2}, [(3, 2, 2, 3, 3)]),
    (
        "InstanceNorm1d",
        {"num_features": 3, "affine": True, "track_running_stats": True},
        [(2, 3, 5)],
    ),
    ("PReLU", {"num_parameters": 3}, [(2, 3)]),
    ("RReLU", {}, [(2, 3)]),
    ("Dropout2d", {}, [(2, 3, 4, 4)]),
    ("Softmax", {"dim": 1}, [(2, 3)]),
    ("AdaptiveAvgPool2d", {"output_size": 2}, [(2, 3, 8, 8)]),
    ("ZeroPad2d", {"padding": 1}, [(2, 3, 4, 4)]),
    ("Upsample", {"scale_factor": 2}, [(1, 2, 4, 4)]),
    ("PixelShuffle", {"upscale_factor": 2}, [(1, 8, 3, 3)]),
    ("CrossEntropyLoss", {"weight": torch.tensor([1.0, 2.0])}, [(3, 2), (3, 2)]),
    ("MSELoss", {}, [(3, 2), (3, 2)]),
    ("GRUCell", {"input_size": 3, "hidden_size": 4}, [(2, 3)]),
    ("TransformerEncoderLayer", {"d_model": 4, "nhead": 2, "dropout": 0.0}, [(5, 2, 4)]),
]
CASE = pytest.mark.parametrize(("name", "kwargs", "shapes"), CASES, ids=[c[0] for c in CASES])


class Net(nn.Module):
    """A cupola module with a list that holds a torch layer and a cupola layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.body = nn.ModuleList([layer, nn.Linear(2, 2)])

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.body[0](*inputs)


def make(name: str, kwargs: dict[str, Any], seed: int = 0) -> tuple[Net, Any]:
    """Return the net, and the same layer of torch alone."""
    torch.manual_seed(seed)
    net = Net(getattr(nn, name)(**kwargs))
    torch.manual_seed(seed)
    return net, getattr(torch.nn, name)(**kwargs)


def run(module: Any, shapes: list[tuple[int, ...]]) -> torch.Tensor:
    torch.manual_seed(5)
    return module(*[torch.rand(shape) for shape in shapes])


def test_every_layer_of_torch_has_its_name_here() -> None:
    for name in NAMES:
        assert getattr(nn, name) is getattr(torch.nn, name)
        assert name in nn.__all__
    assert not set(NAMES) & set(nn.layers.__all__)
    classes = {name: value for name, value in vars(torch.nn).items() if isinstance(value, type)}
    layers = {name for name, value in classes.items() if issubclass(value, torch.nn.Module)}
    deprecated = {"Container", "DataParallel", "NLLLoss2d"}
    recent = {"LinearCrossEntropyLoss"}  # not in every supported version of torch
    assert layers - set(nn.__all__) <= deprecated | recent | {"RNNBase", "RNNCellBase"}


@CASE
def test_it_runs_and_follows_the_mode(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    net, layer = make(name, kwargs)
    for training in (True, False):
        net.train(training)
        layer.train(training)
        assert net.body[0].training is training
        torch.testing.assert_close(run(net, shapes), run(layer, shapes))


@CASE
def test_its_state_is_saved_copied_and_loaded(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    net, layer = make(name, kwargs)
    state = net.state_dict()
    assert [key for key in state if key.startswith("body.0.")] == [
        f"body.0.{key}" for key in layer.state_dict()
    ]
    paths = [path for path, _ in net.named_parameters() if path.startswith("body.0.")]
    assert paths == [f"body.0.{key}" for key, _ in layer.named_parameters()]
    saved = io.BytesIO()
    torch.save(state, saved)
    saved.seek(0)
    other, _ = make(name, kwargs, seed=1)
    assert not any(other.load_state_dict(torch.load(saved)))
    for twin in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(run(twin.eval(), shapes), run(net.eval(), shapes))


@CASE
def test_a_failed_load_leaves_it_as_it_was(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    net, _ = make(name, kwargs)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    state = {key: value + 1 for key, value in before.items()}
    state["body.1.weight"] = torch.zeros(7)
    for assign in (False, True):
        with pytest.raises(RuntimeError, match=r"size mismatch for body\.1\.weight"):
            net.load_state_dict(state, assign=assign)
    torch.testing.assert_close(dict(net.state_dict()), before)
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(after[key] is tensors[key] for key in tensors)


@CASE
def test_it_is_converted_and_visited_with_the_tree(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    net, _ = make(name, kwargs)
    visited: list[Any] = []
    net.apply(visited.append)
    assert net.body[0] in visited and net in visited
    assert net.double() is net
    assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {torch.float64}
    calls = []
    net.float().body[0].register_forward_hook(lambda *_: calls.append(1))
    run(net, shapes)
    net.zero_grad()
    net.requires_grad_(False)
    assert calls == [1]
    assert not any(p.requires_grad for p in net.body[0].parameters())


@CASE
def test_it_is_built_on_meta(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    net, _ = make(name, kwargs)
    before = torch.random.get_rng_state()
    with nn.on_meta():
        empty = Net(getattr(nn, name)(**kwargs))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.is_meta for p in empty.parameters())
    assert not any(b.is_meta for b in empty.buffers())
    empty.load_state_dict(net.state_dict(), assign=True)
    torch.testing.assert_close(run(empty.eval(), shapes), run(net.eval(), shapes))


def test_a_config_builds_them() -> None:
    registry = Registry("models", list_builder=build_sequential)
    registry.register_module("Flatten", module=nn.Flatten)
    registry.register_module("PReLU", module=nn.PReLU)
    chain = registry.build([{"type": "Flatten"}, {"type": "PReLU", "num_parameters": 6}])
    assert isinstance(chain, nn.Sequential)
    assert chain(torch.ones(2, 3, 2)).shape == (2, 6)
    part = registry.build({"type": "PReLU"})
    assert part.build_record.part("").name == "PReLU"


def test_sync_batch_norm_replaces_those_of_torch() -> None:
    model = nn.Sequential(nn.BatchNorm3d(3), torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[0]) is torch.nn.SyncBatchNorm
    assert type(converted[1][0]) is torch.nn.SyncBatchNorm
