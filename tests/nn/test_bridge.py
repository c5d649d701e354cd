"""Bridged trees with torch's tools; every check asserts an effect."""

import abc
import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

from cupola import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.fc = nn.Linear(4, 5)
        self.blocks = nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.fc(self.act(self.bn(self.conv(x))).mean((2, 3))))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def bridged() -> Any:
    return nn.to_torch(plain())


@torch.no_grad()
def expected() -> torch.Tensor:
    return plain()(X)


def test_the_bridge_is_in_place_and_gives_torch_classes() -> None:
    net = plain()
    before = dict(net.named_parameters())
    assert nn.to_torch(net) is net
    assert isinstance(net, torch.nn.Module)
    assert isinstance(net, Net)
    assert all(net.get_parameter(name) is param for name, param in before.items())
    for module, twin in ((net.fc, "Linear"), (net.conv, "Conv2d"), (net.bn, "BatchNorm2d")):
        assert isinstance(module, getattr(torch.nn, twin))
        assert isinstance(module, getattr(nn, twin))
        assert type(module) == getattr(torch.nn, twin)  # noqa: E721
        assert {getattr(torch.nn, twin): 1}[type(module)] == 1
    assert type(net) != torch.nn.Module  # noqa: E721
    assert type(net) in {type(net)}
    assert repr(net) == repr(plain())
    assert torch.equal(net(X), expected())


def test_from_torch_undoes_it() -> None:
    net = nn.from_torch(bridged())
    assert [type(m) for m in net.modules()] == [type(m) for m in plain().modules()]
    assert not isinstance(net, torch.nn.Module)
    assert torch.equal(net(X), expected())
    assert isinstance(nn.from_torch(torch.nn.ReLU()), torch.nn.ReLU)


def test_a_layer_of_ones_own_is_its_twin_but_not_equal_to_it() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    layer = nn.to_torch(Scaled(2, 2))
    assert isinstance(layer, torch.nn.Linear)
    assert type(layer) != torch.nn.Linear  # noqa: E721
    assert type(nn.to_torch(Scaled(2, 2))) is type(layer)


def test_torch_parents_and_torch_children() -> None:
    parent = torch.nn.Sequential(bridged(), torch.nn.Linear(5, 2))
    state = {key: torch.ones_like(value) for key, value in parent.state_dict().items()}
    parent.load_state_dict(state)
    assert parent[0].fc.weight.eq(1).all()
    model = nn.Sequential(plain(), torch.nn.Linear(5, 2)).train()
    model(X).sum().backward()
    assert model[1].weight.grad is not None
    model.double().eval()
    assert model[1].weight.dtype == torch.float64
    assert not model[1].training
    assert "(1): Linear(in_features=5" in repr(copy.deepcopy(model))


def test_copies_and_pickles_stay_bridged() -> None:
    for twin in (copy.deepcopy(bridged()), pickle.loads(pickle.dumps(bridged()))):
        assert isinstance(twin.fc, torch.nn.Linear)
        assert torch.equal(twin(X), expected())


def test_hooks_run_through_the_bridge() -> None:
    net, seen = plain(), []
    net.fc.register_forward_hook(lambda m, a, o: seen.append("before"))
    nn.to_torch(net)
    net.fc.register_forward_hook(lambda m, a, o: seen.append("after"))
    net.fc.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    net(X).sum().backward()
    assert seen == ["before", "after", "backward"]


def test_functional_call_grad_and_ensembles() -> None:
    nets = [bridged() for _ in range(3)]
    zeros = {name: torch.zeros_like(p) for name, p in nets[0].named_parameters()}
    for call in (torch.func.functional_call, nn.functional_call):
        assert not call(nets[0], zeros, (X,)).any()
    assert torch.equal(nets[0](X), expected())
    parameters = dict(nets[0].named_parameters())
    grads = torch.func.grad(lambda p: torch.func.functional_call(nets[0], p, (X,)).sum())(
        parameters
    )
    assert grads["fc.weight"].any()
    with torch.no_grad():
        nets[1].fc.weight.mul_(2)
    stacked = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")
    out = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (X,)))(*stacked)
    torch.testing.assert_close(out[1], nets[1](X))
    assert not torch.allclose(out[0], out[1])


NAMES = "SGD Adam AdamW Adamax NAdam RAdam Adagrad Adadelta RMSprop Rprop ASGD Adafactor LBFGS"
OPTIMIZERS = [getattr(torch.optim, name) for name in NAMES.split()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_optimizers_lower_the_loss(optimizer: Any) -> None:
    net = nn.Linear(4, 1)
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    steps = optimizer(net.parameters())

    def loss() -> torch.Tensor:
        steps.zero_grad()
        value = (net(x) - y).square().mean()
        value.backward()
        return value

    first = loss().item()
    for _ in range(5):
        steps.step(loss)
    assert loss().item() < first


def test_stochastic_weight_averaging() -> None:
    net = bridged()
    average = torch.optim.swa_utils.AveragedModel(net)
    for _ in range(2):
        with torch.no_grad():
            net.fc.weight.add_(1)
        average.update_parameters(net)
    torch.testing.assert_close(average.module.fc.weight, net.fc.weight - 0.5)


class Halve(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def test_parametrizations() -> None:
    net = bridged()
    weight = net.fc.weight.detach().clone()
    parametrize.register_parametrization(net.fc, "weight", Halve())
    torch.testing.assert_close(net.fc.weight, weight / 2)
    assert "fc.parametrizations.weight.original" in net.state_dict()
    assert not torch.equal(net(X), expected())
    assert torch.equal(copy.deepcopy(net)(X), net(X))
    parametrize.remove_parametrizations(net.fc, "weight", leave_parametrized=False)
    assert torch.equal(net(X), expected())


class Scaled(nn.Linear):
    """A layer with a class of its own."""


@pytest.mark.parametrize("cls", [nn.Linear, Scaled])
def test_a_parametrized_layer_crosses_the_bridge_both_ways(cls: type[nn.Linear]) -> None:
    layer: Any = cls(3, 2)
    weight = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", nn.Sequential(Halve()))
    for _ in range(2):
        nn.to_torch(layer)
        assert (
            isinstance(layer, torch.nn.Linear)
            and type(layer).__name__ == f"Parametrized{cls.__name__}"
        )
        assert torch.equal(copy.deepcopy(layer).weight, weight / 2)
        nn.from_torch(layer)
        assert not isinstance(layer, torch.nn.Module) and isinstance(layer, cls)
        assert torch.equal(layer(torch.ones(1, 3)), (weight / 2).sum(1)[None] + layer.bias)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is cls and torch.equal(layer.weight, weight)


def test_weight_and_spectral_norm() -> None:
    net = bridged()
    parametrizations.weight_norm(net.fc)
    assert "fc.parametrizations.weight.original0" in dict(net.named_parameters())
    torch.testing.assert_close(net(X), expected())
    parametrizations.spectral_norm(net.blocks[0].train(), n_power_iterations=20)
    assert torch.linalg.matrix_norm(net.blocks[0].weight, 2).item() == pytest.approx(1, abs=0.05)
    old = bridged()
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(old.fc)
    assert {"weight_g", "weight_v"} <= set(dict(old.fc.named_parameters()))
    torch.testing.assert_close(old(X), expected())
    torch.nn.utils.remove_weight_norm(old.fc)
    assert "weight" in old.fc._parameters


def test_pruning() -> None:
    net = bridged()
    prune.l1_unstructured(net.fc, "weight", amount=0.5)
    assert net.fc.weight.eq(0).float().mean() == 0.5
    assert "fc.weight_mask" in dict(net.named_buffers())
    prune.remove(net.fc, "weight")
    assert net.fc.weight.eq(0).float().mean() == 0.5
    assert "weight" in net.fc._parameters


def test_fx_sees_layers_as_leaves() -> None:
    traced = torch.fx.symbolic_trace(bridged())
    calls = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"conv", "bn", "fc", "blocks.0"} <= calls
    assert torch.equal(traced(X), expected())


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_jit_trace_keeps_the_tree() -> None:
    traced = torch.jit.trace(bridged(), X)
    assert "fc" in dict(traced.named_children())
    torch.testing.assert_close(traced(X), expected())


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
def test_dynamic_quantization_swaps_every_linear() -> None:
    net = torch.ao.quantization.quantize_dynamic(bridged(), {torch.nn.Linear})
    quantized = [m for m in net.modules() if isinstance(m, torch.ao.nn.quantized.dynamic.Linear)]
    assert len(quantized) == 3
    torch.testing.assert_close(net(X), expected(), atol=0.05, rtol=0.05)


def test_activation_checkpointing_runs_blocks_twice() -> None:
    from torch.utils.checkpoint import checkpoint

    net, calls = bridged(), []
    net.fc.register_forward_pre_hook(lambda m, a: calls.append(1))
    checkpoint(net, X, use_reentrant=False).sum().backward()
    assert len(calls) == 2
    assert net.conv.weight.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_export_keeps_paths(strict: bool) -> None:
    exported = torch.export.export(bridged(), (X,), strict=strict)
    torch.testing.assert_close(exported.module()(X), expected())
    assert "fc.weight" in exported.state_dict
    stacks = [str(node.meta.get("nn_module_stack")) for node in exported.graph.nodes]
    assert any("'fc', 'torch.nn.modules.linear.Linear'" in stack for stack in stacks)


@pytest.mark.slow
def test_onnx() -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(bridged(), (X,), dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    out = session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]
    torch.testing.assert_close(torch.tensor(out), expected(), atol=1e-4, rtol=1e-4)


class Marked(type):
    """A metaclass of somebody's own."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.marked = True
        return made


class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def size(self) -> int: ...


class Concrete(Abstract):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def size(self) -> int:
        return 1


class WithMeta(nn.Module, metaclass=Marked):
    pass


@pytest.mark.parametrize("cls", [Concrete, WithMeta])
def test_classes_with_a_metaclass_are_bridged(cls: type) -> None:
    module = nn.to_torch(nn.Sequential(cls(), nn.ReLU()))  # type: ignore[arg-type]
    assert all(isinstance(part, torch.nn.Module) for part in module.modules())
    assert isinstance(module[0], cls) and type(cls) in type(type(module[0])).__mro__
    assert type(copy.deepcopy(module)[0]) is type(module[0])
    assert type(nn.from_torch(module)[0]) is cls


def test_bridging_is_no_subclassing_that_a_class_is_told_of() -> None:
    told: list[str] = []

    class Base(nn.Module):
        def __init_subclass__(cls, *, tag: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            told.append(f"{cls.__name__}:{tag}")

    class Part(Base, tag="a"):
        pass

    bridged = nn.to_torch(Part())
    assert told == ["Part:a"]
    type("Derived", (type(bridged),), {}, tag="b")
    assert told == ["Part:a", "Derived:b"]


def test_a_class_derived_from_a_bridged_one_is_copied_as_itself() -> None:
    module = nn.to_torch(nn.Linear(1, 1))
    module.__class__ = type("Derived", (type(module),), {})
    for made in (copy.copy, copy.deepcopy):
        assert type(made(module)) is type(module)


def test_children_that_are_added_later_are_bridged() -> None:
    root = nn.to_torch(nn.Sequential(nn.ModuleDict()))
    root.append(nn.Sequential(nn.Linear(1, 1)))
    root.insert(0, nn.ReLU())
    root[1]["a"] = nn.Linear(1, 1)
    root[1]._modules["b"] = nn.Linear(1, 1)
    root[1].c = nn.Conv2d(1, 1, 1)
    root[1].c = nn.Conv2d(1, 1, 1)
    assert len(list(root.modules())) == 8
    assert all(isinstance(part, torch.nn.Module) for part in root.modules())


def test_lazy_layers_stay_in_the_bridge() -> None:
    module = nn.to_torch(nn.Sequential(nn.LazyLinear(3)))
    module(torch.ones(2, 5))
    assert isinstance(module[0], torch.nn.Linear) and isinstance(module[0], nn.Linear)
    assert type(nn.from_torch(module)[0]) is nn.Linear
    undone = nn.from_torch(nn.to_torch(nn.Sequential(nn.LazyLinear(3))))
    undone(torch.ones(2, 5))
    assert type(undone[0]) is nn.Linear


def test_a_tree_is_bridged_as_a_whole_or_not_at_all() -> None:
    class Refuses(type):
        def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
            if "bridged_from" in namespace:
                raise TypeError("no")
            return super().__new__(mcs, name, bases, namespace)

    class Part(nn.Module, metaclass=Refuses):
        pass

    module = nn.Sequential(nn.Linear(1, 1), Part())
    with pytest.raises(TypeError, match="no"):
        nn.to_torch(module)
    assert [type(part) for part in module.modules()] == [nn.Sequential, nn.Linear, Part]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bridged_tree_is_compiled_to_torchscript() -> None:
    module = nn.to_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    x = torch.randn(3, 2)
    assert torch.equal(torch.jit.script(module)(x), module(x))  # type: ignore[no-untyped-call]


def test_a_module_takes_the_state_of_a_torch_module() -> None:
    theirs = torch.nn.BatchNorm1d(3)
    theirs.register_buffer("scratch", torch.ones(2), persistent=False)
    calls = []
    theirs.register_forward_hook(lambda *_: calls.append(1))
    ours = nn.BatchNorm1d(3)
    ours.__setstate__(theirs.__dict__.copy())
    assert ours.weight is theirs.weight and list(ours.state_dict()) == list(theirs.state_dict())
    ours(torch.randn(2, 3))
    assert calls == [1]
    ours.register_forward_pre_hook(lambda *_: calls.append(2))
    ours(torch.randn(2, 3))
    assert calls == [1, 2, 1]


def test_deleting_the_mode_gives_the_default() -> None:
    module = nn.Linear(1, 1)
    del module.training
    assert module.training
    del module.eval().training
    assert module.training


def test_layers_become_torchs_own() -> None:
    cases: dict[str, tuple[Any, ...]] = {
        "Linear": (2, 3),
        "Conv2d": (4, 2, 3, 2, 1),
        "BatchNorm1d": (4,),
        "LayerNorm": (4,),
        "GroupNorm": (2, 4),
        "Embedding": (4, 3, 0),
        "Dropout": (0.1,),
        "MaxPool2d": (2,),
        "MultiheadAttention": (4, 2),
        "GELU": ("tanh",),
    }
    for name, args in cases.items():
        ours, theirs = nn.to_torch(getattr(nn, name)(*args)), getattr(torch.nn, name)(*args)
        assert type(ours) is type(theirs) and repr(ours) == repr(theirs)
        assert vars(ours).keys() - {"_from_cupola"} == vars(theirs).keys()
        assert isinstance(ours, getattr(nn, name))
        assert type(nn.from_torch(copy.deepcopy(ours))) is getattr(nn, name)


def test_a_pickled_tree_of_layers_loads_with_torchs_classes_alone() -> None:
    module, file = nn.to_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    with torch.serialization.safe_globals([torch.nn.Sequential, torch.nn.Linear, torch.nn.ReLU]):
        loaded = torch.load(file, weights_only=True)
    x = torch.ones(1, 2)
    assert torch.equal(loaded(x), module(x))
    assert type(nn.from_torch(loaded)) is nn.Sequential and type(loaded[0]) is nn.Linear


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_fusion_replaces_convolution_and_batch_norm() -> None:
    from torch.fx.experimental.optimization import fuse

    fused = fuse(bridged())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
    torch.testing.assert_close(fused(X), expected())


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
def test_quantization_leaves_the_projection_of_attention() -> None:
    attention = nn.to_torch(nn.MultiheadAttention(4, 2, batch_first=True)).eval()
    quantized = torch.ao.quantization.quantize_dynamic(attention, {torch.nn.Linear})
    x = torch.randn(1, 3, 4)
    torch.testing.assert_close(quantized(x, x, x)[0], attention(x, x, x)[0])


def test_a_bridged_module_is_compiled_as_a_module() -> None:
    compiled = torch.compile(bridged(), backend="eager")
    assert "_orig_mod.fc.weight" in compiled.state_dict()
    torch.testing.assert_close(compiled(X), expected())


def test_methods_of_a_class_come_before_torchs() -> None:
    class Part(nn.Linear):
        def train(self, mode: bool = True) -> "Part":
            self.asked = mode
            return super().train(mode)

        def keep(self, name: str) -> str:  # names of helpers of this package are free
            return name

    part: Any = nn.to_torch(Part(1, 1))
    part.eval()
    assert part.asked is False and not part.training
    assert type(part).__mro__.index(Part) < type(part).__mro__.index(torch.nn.Module)
    assert type(part).state_dict is torch.nn.Module.state_dict
    part.extra = nn.Linear(1, 1)
    assert type(part.extra) is torch.nn.Linear
