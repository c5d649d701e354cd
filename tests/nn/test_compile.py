"""torch.compile takes a module without the bridge: one graph, a cache for each class."""

from typing import Any

import pytest
import torch

from cupola import nn


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


class CompileCounter:
    """A backend that runs each graph as it is, and counts them."""

    def __init__(self) -> None:
        self.frame_count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.frame_count += 1
        return graph.forward


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2))


def test_one_graph_without_a_break() -> None:
    counter, net, x = CompileCounter(), model().eval(), torch.randn(2, 2, 5, 5)
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x)
    assert counter.frame_count == 1


def test_no_class_uses_up_anothers_recompiles() -> None:
    counter = CompileCounter()
    for i in range(12):  # the limit is 8 for one code object

        class Shift(nn.Module):
            amount = i

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + self.amount

        compiled = torch.compile(Shift(), backend=counter, fullgraph=True)
        assert compiled(torch.zeros(1)).item() == i
    assert counter.frame_count == 12


def test_compile_in_place_keeps_hooks_and_is_not_pickled() -> None:
    net, x = nn.Linear(2, 2), torch.randn(1, 2)
    counter = CompileCounter()
    net.register_forward_hook(lambda m, a, o: o * 0)
    net.compile(backend=counter, fullgraph=True)
    assert not net(x).any()
    assert counter.frame_count == 1
    assert "_compiled_call" not in net.__getstate__()


def test_gradients_and_training_mode() -> None:
    counter, net, x = CompileCounter(), model(), torch.randn(2, 2, 5, 5)
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    compiled(x).sum().backward()
    assert net[0].weight.grad is not None
    assert net[1].num_batches_tracked.item() == 1


def test_a_call_of_ones_own_is_left_alone() -> None:
    class Own(nn.Module):
        def __call__(self, x: int) -> int:
            return x + 1

    class Child(Own):
        pass

    assert Child()(1) == 2
    assert "__call__" not in Child.__dict__
