"""Modules that are not bridged, in the hands of code for torch.nn.Module: nothing is silent."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import NotBridgedError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_a_torch_module_registers_what_is_assigned_to_it() -> None:
    net = Net()
    before, output = dict(net.named_parameters()), net(X)
    parent = torch.nn.Module()
    parent.backbone = net
    assert parent.backbone is net and isinstance(net, Net) and isinstance(net, torch.nn.Module)
    assert isinstance(net.fc, torch.nn.Linear)
    found = dict(parent.named_parameters())
    assert list(found) == [f"backbone.{name}" for name in before]
    assert all(found[f"backbone.{name}"] is value for name, value in before.items())
    assert set(parent.state_dict()) == set(found)
    assert parent.double().backbone.fc.weight.dtype == torch.float64
    assert not parent.eval().backbone.norm.training
    assert torch.equal(parent.float().backbone(X), output)
    assert type(nn.from_torch(net)) is Net


def test_assignment_follows_the_rules_of_torch() -> None:
    parent = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"cannot assign .* as parameter 'weight'"):
        parent.weight = Net()
    parent.child = torch.nn.ReLU()
    parent.child = Net()
    assert isinstance(parent.child, Net) and "child" in parent._modules
    seen: list[Any] = []
    net = Net()
    handle = nn.register_module_module_registration_hook(lambda m, name, c: seen.append((name, c)))
    parent.other = net
    handle.remove()
    assert seen == [("other", net)]

    class Early(torch.nn.Module):
        def __init__(self) -> None:
            self.net = Net()

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Early()


class Overridden(torch.nn.Module):
    def __setattr__(self, name: str, value: Any) -> None:
        assert not isinstance(value, nn.Module) or not isinstance(value, torch.nn.Module)
        super().__setattr__(name, value)


def test_an_overridden_setattr_and_a_torch_module_inside_a_cupola_module() -> None:
    parent = Overridden()
    parent.net = Net()
    root = nn.Sequential(parent)
    assert len(list(root.parameters())) == 4
    assert not isinstance(root, torch.nn.Module)
    inner = Net()
    root[0].second = inner
    assert len(list(root.parameters())) == 8 and isinstance(inner, torch.nn.Module)


def test_wrappers_of_torch_keep_the_parameters() -> None:
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    assert not isinstance(net, torch.nn.Module)  # the average holds a copy
    for _ in range(2):
        with torch.no_grad():
            net.fc.weight.add_(1)
        average.update_parameters(net)
    torch.testing.assert_close(average.module.fc.weight, net.fc.weight - 0.5)
    assert "module.fc.weight" in average.state_dict()
    parallel = torch.nn.DataParallel(Net())
    assert len(list(parallel.parameters())) == 4


def replaced() -> Any:
    parent = torch.nn.Sequential(torch.nn.ReLU())
    parent.set_submodule("0", Net())
    return parent


def indexed() -> Any:
    parent = torch.nn.ModuleDict()
    parent["a"] = Net()
    return parent


HOLDERS: dict[str, Any] = {
    "Sequential": lambda: torch.nn.Sequential(Net()),
    "Sequential.append": lambda: torch.nn.Sequential().append(Net()),
    "Sequential.insert": lambda: torch.nn.Sequential().insert(0, Net()),
    "ModuleList": lambda: torch.nn.ModuleList([Net()]),
    "ModuleList.extend": lambda: torch.nn.ModuleList().extend(nn.ModuleList([Net()])),
    "ModuleDict": lambda: torch.nn.ModuleDict({"a": Net()}),
    "ModuleDict[...]": indexed,
    "set_submodule": replaced,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_containers_of_torch_bridge_what_they_get(name: str) -> None:
    parent = HOLDERS[name]()
    (child,) = parent.children()
    assert isinstance(child, Net) and isinstance(child, torch.nn.Module)
    assert type(child.fc) is torch.nn.Linear and len(list(parent.parameters())) == 4


def test_a_module_that_is_added_by_name_is_bridged() -> None:
    parent, first, second = torch.nn.Module(), Net(), Net()
    parent.add_module("first", first)
    parent.register_module("second", second)
    assert [isinstance(child, torch.nn.Module) for child in (first, second)] == [True, True]
    assert len(parent.state_dict()) == 8
    with pytest.raises(TypeError, match="str is not a Module subclass"):
        parent.add_module("third", "text")  # type: ignore[arg-type]


def test_elsewhere_the_class_is_the_class() -> None:
    net = Net()
    assert net.__class__ is Net and isinstance(net, Net)
    assert not isinstance(net, (torch.nn.Module, torch.Tensor, torch.nn.Parameter, int))
    for twin in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin) is twin.__class__ is Net

    class Other(Net):
        pass

    net.__class__ = Other
    assert type(net) is Other
    with pytest.raises(TypeError, match="__class__"):
        net.__class__ = int  # type: ignore[assignment]


def ask(package: str) -> Any:
    """A function of a package that asks whether a module is a torch.nn.Module."""
    source = ModuleType(f"{package}.tool")
    exec("import torch\ndef is_module(m): return isinstance(m, torch.nn.Module)", source.__dict__)
    return source.is_module


@pytest.mark.parametrize("package", ["accelerate", "optimum", "thop", "torchao"])
def test_packages_that_skip_other_modules_get_an_error(package: str) -> None:
    with pytest.raises(
        NotBridgedError,
        match=rf"{package}.tool works on torch.nn.Modules, and Net is a cupola.nn.Module: "
        r"call cupola.nn.to_torch\(module\) first",
    ):
        ask(package)(Net())
    with pytest.raises(NotBridgedError, match=rf"{package}.tool works on torch.nn.Modules"):
        Net().apply(ask(package))  # as thop does, which then looks up type(module)
    assert ask(package)(nn.to_torch(Net()))
    nn.to_torch(Net()).apply(ask(package))
    assert not ask("somebody_else")(Net())
    Net().apply(ask("somebody_else"))


SELECTIVE: dict[str, tuple[Any, Any]] = {
    "convert_sync_batchnorm": (
        torch.nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda net: isinstance(net[1], torch.nn.SyncBatchNorm),
    ),
    "update_bn": (
        lambda net: torch.optim.swa_utils.update_bn([torch.ones(2, 3, 4, 4)], net) or net,
        lambda net: net[1].running_mean.any(),
    ),
    "convert_conv2d_weight_memory_format": (
        lambda net: torch.nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last),
        lambda net: net[0].weight.is_contiguous(memory_format=torch.channels_last),
    ),
}


@pytest.mark.parametrize("name", SELECTIVE)
def test_functions_of_torch_that_select_layers(name: str) -> None:
    convert, took_effect = SELECTIVE[name]

    def net() -> Any:
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
        return nn.Sequential(*layers)

    with pytest.raises(NotBridgedError, match=r"call cupola.nn.to_torch\(module\) first"):
        convert(net())
    assert took_effect(convert(nn.to_torch(net())))


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
def test_dynamic_quantization_gets_an_error() -> None:
    with pytest.raises(NotBridgedError, match=r"call cupola.nn.to_torch\(module\) first"):
        torch.ao.quantization.quantize_dynamic(Net(), {torch.nn.Linear})


def test_a_compiled_module_that_is_asked_for_its_class() -> None:
    class Asks(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if isinstance(self.fc, torch.nn.Module) or self.fc.__class__ is not nn.Linear:
                return x
            return super().forward(x)

    net = Asks()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), net(X)) and net(X).shape == (4, 2)


@contextmanager
def registering_on_meta(with_buffers: bool) -> Iterator[None]:
    """Replaces torch's registration, as accelerate's init_empty_weights does."""
    parameter, buffer = torch.nn.Module.register_parameter, torch.nn.Module.register_buffer

    def register_parameter(module: Any, name: str, param: Any) -> None:
        parameter(module, name, param)
        if param is not None:
            module._parameters[name] = type(param)(module._parameters[name].to("meta"))

    def register_buffer(module: Any, name: str, tensor: Any, persistent: bool = True) -> None:
        buffer(module, name, tensor, persistent=persistent)
        if tensor is not None:
            module._buffers[name] = module._buffers[name].to("meta")

    torch.nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
    if with_buffers:
        torch.nn.Module.register_buffer = register_buffer  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = parameter  # type: ignore[method-assign]
        torch.nn.Module.register_buffer = buffer  # type: ignore[method-assign]


@pytest.mark.parametrize("with_buffers", [False, True])
def test_a_registration_that_a_tool_replaces_takes_effect(with_buffers: bool) -> None:
    with registering_on_meta(with_buffers):
        net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
        net.scale = nn.Parameter(torch.ones(1))
        net.register_buffer("table", torch.ones(2), persistent=False)
    assert all(parameter.is_meta for parameter in net.parameters())
    assert all(buffer.is_meta == with_buffers for buffer in net.buffers())
    assert "table" not in net.state_dict() and len(net.state_dict()) == 7
    assert net[0].bias is None
    assert not nn.Linear(1, 1).weight.is_meta


def test_registration_follows_the_rules_of_torch() -> None:
    norm = nn.BatchNorm1d(2)
    assert norm.state_dict().keys() == torch.nn.BatchNorm1d(2).state_dict().keys()
    assert not norm.weight.is_meta and vars(norm)["_parameters"] == dict(norm.named_parameters())
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        norm.register_parameter("forward", None)
    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        nn.Module.__new__(nn.Module).register_buffer("a", None)
