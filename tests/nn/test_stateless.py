"""functional_call on modules without the bridge."""

from typing import Any

import pytest
import torch
from torch._functorch.make_functional import make_functional

from cupola import nn


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.tied = self.fc.weight
        self.register_buffer("calls", torch.zeros(()))
        self.plain = torch.ones(1)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        self.calls = self.calls + 1
        return (self.fc(x) + self.tied + self.plain) * scale


X = torch.ones(1, 1)


def call(net: nn.Module, values: dict[str, torch.Tensor], **kwargs: Any) -> float:
    return nn.functional_call(net, values, X, **kwargs).item()


def test_values_are_used_for_one_call_and_changes_are_written_back() -> None:
    net = Counting()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    values = {"fc.bias": torch.tensor([5.0]), "fc.weight": torch.tensor([[2.0]])}
    values |= {"calls": torch.tensor(7.0), "plain": torch.zeros(1)}
    assert call(net, values) == 9
    assert values["calls"].item() == 8
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.plain.item() == 1
    assert nn.functional_call(net, values, (X,), {"scale": 2.0}).item() == 18


def test_ties_are_followed_or_not() -> None:
    net = Counting()
    values = {"fc.weight": torch.tensor([[2.0]]), "fc.bias": torch.zeros(1)}
    assert call(net, values) == 5
    loose = call(net, values, tie_weights=False)
    assert loose == pytest.approx(3 + net.tied.item())
    with pytest.raises(ValueError, match=r"multiple values for keys .* which are tied"):
        call(net, values | {"tied": torch.tensor([[3.0]])})


def test_an_exception_restores_what_was_there() -> None:
    net = Counting()
    weight = net.fc.weight
    with pytest.raises(RuntimeError):
        call(net, {"fc.weight": torch.zeros(3, 3)})
    assert net.fc.weight is net.tied is weight


def test_paths_are_checked() -> None:
    net = Counting()
    with pytest.raises(AttributeError, match="Counting has no attribute `head`"):
        call(net, {"head.w": X})
    with pytest.raises(TypeError, match="attribute `training`: True is not an instance of torch"):
        call(net, {"training": X})
    with pytest.raises(TypeError, match=r"^3 is not an instance of torch"):
        call(net, {"plain": 3})  # type: ignore[dict-item]
    expected = r"Unexpected key\(s\): 'plain'.\n\tMissing key\(s\): 'calls', 'fc.bias'"
    with pytest.raises(RuntimeError, match=expected):
        call(net, {"plain": X}, strict=True)


def test_a_new_name_exists_during_the_call_only() -> None:
    class Reader(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.offset

    net = Reader()
    for offset in (X, nn.Parameter(X)):
        assert nn.functional_call(net, {"offset": offset}, X).item() == 2
        assert not hasattr(net, "offset") and not list(net.parameters())


def test_values_may_come_in_several_dictionaries() -> None:
    net = Counting()
    parts = ({"fc.weight": torch.tensor([[2.0]])}, {"fc.bias": torch.zeros(1)})
    assert nn.functional_call(net, parts, X).item() == 5
    with pytest.raises(ValueError, match=r"\['fc.bias'\] appeared in multiple dictionaries"):
        nn.functional_call(net, [*parts, parts[1]], X)
    with pytest.raises(ValueError, match=r"all elements .* to be dictionaries"):
        nn.functional_call(net, ["fc.weight"], X)  # type: ignore[list-item]


def test_an_ensemble_by_torch_func() -> None:
    nets = [nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)).eval() for _ in range(3)]
    stacked = torch.func.stack_module_state(nets)  # type: ignore[arg-type]

    def call_one(*values: Any) -> Any:
        return torch.func.functional_call(nets[0], values, (X,))  # type: ignore[arg-type]

    expected = torch.stack([net(X) for net in nets])
    torch.testing.assert_close(torch.vmap(call_one)(*stacked), expected)
    assert not isinstance(nets[0], torch.nn.Module)


def test_the_function_of_a_module_that_is_not_bridged() -> None:
    net = nn.Sequential(nn.Linear(1, 2))
    function, values = make_functional(net)  # type: ignore[arg-type]
    assert torch.equal(function(values, X), net(X))


def test_gradients_flow_to_the_values() -> None:
    net, weight = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
    nn.functional_call(net, {"weight": weight}, X * 3).backward()
    assert weight.grad.item() == 3
    assert net.weight.grad is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_refused() -> None:
    scripted = torch.jit.script(torch.nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="Jitted modules"):
        nn.functional_call(scripted, {"weight": torch.zeros(1, 1)}, X)
