"""The tables _parameters, _buffers and _modules, and what code written for torch does to them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from cupola import nn


def layer(library: Any, name: str, *args: int) -> Any:
    if library == "bridged":
        return nn.to_torch(getattr(nn, name)(*args))
    return getattr(library, name)(*args)


@pytest.fixture(params=[nn, torch.nn, "bridged"], ids=["cupola", "torch", "bridged"])
def make(request: Any) -> Callable[..., Any]:
    return lambda name, *args: layer(request.param, name, *args)


def names(module: Any) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def test_the_tables_are_dictionaries(make: Any) -> None:
    linear = make("Linear", 2, 2)
    table = linear._parameters
    assert isinstance(table, dict) and linear._parameters is table
    assert list(reversed(table)) == ["bias", "weight"]
    assert table["weight"] is linear.weight
    new = Parameter(torch.zeros(2, 2))
    table["weight"] = new
    assert linear.weight is new and next(linear.parameters()) is new
    table["bias"] = None
    assert linear.bias is None and not linear(torch.ones(1, 2)).any()
    assert table.pop("weight") is new and not hasattr(linear, "weight")
    linear.weight = torch.ones(2, 2)  # a plain tensor, as pruning and weight norm put it
    assert linear(torch.ones(1, 2)).eq(2).all() and names(linear) == []
    table["weight"] = table.setdefault("other", new)
    assert linear.other is new and table.popitem()[0] == "weight"
    table.clear()
    assert not hasattr(linear, "other") and not list(linear.parameters())
    with pytest.raises(KeyError):
        table.popitem()


def test_buffers_and_children(make: Any) -> None:
    norm = make("BatchNorm1d", 2)
    norm._buffers["running_mean"] = torch.full((2,), 7.0)
    assert norm.state_dict()["running_mean"][0] == 7 and norm.running_mean[0] == 7
    norm._non_persistent_buffers_set.add("running_mean")
    assert "running_mean" not in norm.state_dict()
    del norm.running_mean
    norm.running_mean = None
    norm.register_buffer("extra", torch.ones(1), persistent=False)
    norm.extra = Parameter(torch.ones(1))
    del norm.extra
    norm.register_buffer("extra", torch.ones(1))
    assert "extra" in norm.state_dict()
    chain = make("Sequential", torch.nn.ReLU(), torch.nn.Tanh())
    assert chain._modules.popitem()[0] == "1" and len(chain) == 1
    chain._modules["0"] = torch.nn.Sigmoid()
    assert isinstance(chain[0], torch.nn.Sigmoid)
    chain._modules = {"only": torch.nn.Tanh()}
    assert isinstance(chain.only, torch.nn.Tanh) and len(chain) == 1 and not hasattr(chain, "0")


def test_what_bypasses_the_tables_hides_a_member(make: Any) -> None:
    for hide in (
        object.__setattr__,
        lambda module, name, value: module.__dict__.update({name: value}),
    ):
        linear = make("Linear", 2, 2)
        weight = linear.weight
        hide(linear, "weight", torch.zeros(2, 2))
        assert not linear.weight.any() and torch.equal(linear(torch.ones(1, 2))[0], linear.bias)
        assert next(linear.parameters()) is weight and linear.state_dict()["weight"].any()
        twin = copy.deepcopy(linear)
        assert not twin.weight.any() and next(twin.parameters()).any()
        linear.half()
        assert (
            linear.weight.dtype == torch.float32 and next(linear.parameters()).dtype == torch.half
        )
        del linear.weight
        assert names(linear) == ["bias"] and not linear.weight.any()
        linear.weight = weight
        assert linear.weight is weight and set(names(linear)) == {"weight", "bias"}


def test_a_shallow_copy_has_its_own_tables() -> None:
    norm = nn.BatchNorm1d(2)
    twin = copy.copy(norm)
    twin.register_parameter("scale", Parameter(torch.ones(1)))
    twin.register_buffer("seen", torch.ones(1), persistent=False)
    twin.child = nn.ReLU()
    del twin.weight
    twin._parameters["bias"] = None
    assert names(norm) == ["weight", "bias"] and norm.bias is not None
    assert list(norm.children()) == [] and not norm._non_persistent_buffers_set
    assert norm(torch.ones(2, 2)).shape == (2, 2) and len(norm.state_dict()) == 5
    assert names(twin) == ["scale"] and twin.running_mean is norm.running_mean


def test_a_copied_dict_is_not_shared(make: Any) -> None:
    linear = make("Linear", 2, 2)
    for assign in (True, False):
        twin = object.__new__(type(linear))
        if assign:
            twin.__dict__ = linear.__dict__.copy()
        else:
            twin.__dict__.update(linear.__dict__)
        twin._parameters = dict(twin._parameters)
        twin._parameters["weight"] = Parameter(torch.zeros(2, 2))
        assert linear.weight.any() and not twin.weight.any() and not next(twin.parameters()).any()
        twin._parameters = {}
        assert not list(twin.parameters()) and len(list(linear.parameters())) == 2


def test_registering_on_a_copied_dict_leaves_the_original_alone() -> None:
    linear = nn.Linear(2, 2)
    twin = nn.Linear.__new__(nn.Linear)
    twin.__dict__.update(linear.__dict__)
    twin.register_parameter("scale", Parameter(torch.ones(1)))
    twin.weight = Parameter(torch.zeros(2, 2))
    assert (
        names(linear) == ["weight", "bias"]
        and linear.weight.any()
        and linear._parameters["weight"].any()
    )


def test_a_property_with_the_name_of_a_parameter(make: Any) -> None:
    base = type(make("Linear", 1, 1))

    class Doubled(base):  # type: ignore[misc, valid-type]
        @property
        def weight(self) -> Any:
            return self._parameters["weight"] * 2

    linear = make("Linear", 1, 1)
    value = linear.weight.item()
    linear.__class__ = Doubled
    assert linear.weight.item() == 2 * value and names(linear) == ["weight", "bias"]
    assert linear.state_dict()["weight"].item() == pytest.approx(value)
    linear.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    assert linear.weight.item() == 2 and linear(torch.ones(1, 1)).item() == 2
    assert linear.double().weight.dtype == torch.float64


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spectral_norm_of_a_transposed_convolution(dims: int) -> None:
    conv = getattr(nn, f"ConvTranspose{dims}d")(3, 5, 2)
    torch.nn.utils.spectral_norm(conv)
    assert conv.weight_u.shape == (5,)  # the output channels, which are the second axis


def test_attention_of_mixed_dtypes_is_an_error(make: Any) -> None:
    attention = make("MultiheadAttention", 4, 2)
    single, double = torch.ones(3, 1, 4), torch.ones(3, 1, 4, dtype=torch.double)
    for inputs in ((double,) * 3, (single, double, double), (double, single, single)):
        for mode in (True, False):
            with pytest.raises(RuntimeError, match="dtype"), torch.set_grad_enabled(mode):
                attention.train(mode)(*inputs)


def test_attention_casts_a_bias_of_another_dtype() -> None:
    """PyTorch casts it or raises, depending on how the input is laid out."""
    attention = nn.MultiheadAttention(4, 2)
    x = torch.randn(3, 2, 4)
    attention.in_proj_bias = Parameter(torch.tensor([0.5, -1.0, 2.0] * 4, dtype=torch.half))
    with torch.no_grad():
        found = attention.eval()(x, x, x)[0]
        attention.in_proj_bias = Parameter(attention.in_proj_bias.float())
        torch.testing.assert_close(found, attention(x, x, x)[0])


@pytest.mark.parametrize("source", [torch.nn, "bridged"], ids=["torch", "bridged"])
def test_a_dict_that_was_updated_with_that_of_a_torch_module(source: Any) -> None:
    theirs = layer(source, "BatchNorm1d", 2)
    theirs.running_mean.fill_(9)
    norm, x = nn.BatchNorm1d(2), torch.ones(1, 2)
    norm.__dict__.update(theirs.__dict__)
    for twin in (copy.deepcopy(norm), nn.to_torch(copy.copy(norm)), norm):
        assert torch.equal(twin.eval()(x), theirs.eval()(x))
        assert twin.running_mean is twin._buffers["running_mean"]
    assert norm.weight is theirs.weight
    norm.__dict__.update(layer(source, "BatchNorm1d", 2).__dict__)
    norm.weight = theirs.bias  # an assignment takes the tables as well
    assert norm.bias is norm._parameters["bias"] is not theirs.bias
