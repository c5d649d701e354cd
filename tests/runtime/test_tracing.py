"""Networks are traced in a fork, which ends when it takes too long."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from cupola.runtime.optimize import tracing
from cupola.runtime.optimize.network import Call, EngineUnavailableError
from cupola.runtime.optimize.tracing import CANNOT, TracingTimeoutError, trace

CALL = Call.of((torch.ones(2, 3),))
ANY = ({0: "batch"},)


class Network(torch.nn.Module):
    """Executes a function while it is traced."""

    def __init__(self, before: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.before = before
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, *tensors: Tensor) -> Tensor:
        (x,) = tensors
        self.before(x)
        return self.linear(x)


def compute(_: Tensor) -> None:
    """Uses the processor for longer than any test waits."""
    while True:
        pass


def traced(network: Network, axes: tracing.Axes, out: Path, seconds: float) -> None:
    trace(network, CALL, axes, out, seconds)  # type: ignore[arg-type]


def children() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = children()  # of other tests in this process
    yield
    assert children() <= before


@pytest.mark.parametrize("axes", [(), ANY], ids=["fixed", "any batch"])
def test_the_program_of_a_network_is_written(tmp_path: Path, axes: tracing.Axes) -> None:
    network = Network(lambda _: None)
    traced(network, axes, tmp_path / "program.pt2", 200.0)
    program = torch.export.load(tmp_path / "program.pt2").module()
    x = torch.randn(5 if axes else 2, 3)
    torch.testing.assert_close(program(x), network(x))


def test_inputs_are_contiguous(tmp_path: Path) -> None:
    """Graphs get contiguous inputs, and compiled code relies on the strides of the trace."""
    strides: list[tuple[int, ...]] = []
    call = Call.of((torch.ones(3, 2).t(),))
    network: Any = Network(lambda x: strides.append(x.stride()))
    tracing.write_program(network, call, (), tmp_path / "program.pt2")
    assert strides and set(strides) == {(3, 1)}
    (example,), _ = torch.export.load(tmp_path / "program.pt2").example_inputs
    assert example.stride() == (3, 1)


def test_sizes_that_are_not_fixed_are_given_up_after_a_share_of_the_time(tmp_path: Path) -> None:
    slow = Network(lambda _: time.sleep(1000))
    with pytest.raises(EngineUnavailableError, match="not traced with any size within 0 s"):
        traced(slow, ANY, tmp_path / "program.pt2", 0.8)
    with pytest.raises(TracingTimeoutError):
        traced(slow, (), tmp_path / "program.pt2", 0.4)
    assert not (tmp_path / "program.pt2").exists()


def test_sizes_that_take_very_long_are_given_up_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "ANY_SIZE", 0.3)
    with pytest.raises(EngineUnavailableError, match=f"{CANNOT} with any size"):
        traced(Network(compute), ANY, tmp_path / "program.pt2", 500.0)


def test_a_network_that_torch_cannot_trace_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match=f"^{CANNOT}: "):
        traced(Network(lambda x: int(x.sum())), (), tmp_path / "program.pt2", 200.0)


def test_a_child_that_is_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="not traced: ended by signal 6"):
        traced(Network(lambda _: os.abort()), (), tmp_path / "program.pt2", 200.0)
