"""Which sizes of a network are recorded as CUDA graphs; a fake recorder stands for the GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.runtime.optimize import cuda_graphs
from cupola.runtime.optimize.cuda_graphs import RECORDED_SIZES, CudaGraph, Half, Recordings
from cupola.runtime.optimize.network import Call, EngineUnavailableError, Network
from cupola.runtime.optimize.registry import ENGINES

CUDA = torch.device("cuda")


class Twice(nn.Module):
    """A network whose answer is nested."""

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> Any:
        return {"twice": (scale * x, "name"), "sum": x.sum()}


class FakeGraph:
    """Replays by computing again into the recorded results."""

    def __init__(self, run: Callable[[], Any], result: Any) -> None:
        self.run, self.result = run, result

    def replay(self) -> None:
        fresh = self.run()
        self.result["twice"][0].copy_(fresh["twice"][0])
        self.result["sum"].copy_(fresh["sum"])


class Recorder:
    """Counts what is recorded; `full` lets it fail."""

    def __init__(self) -> None:
        self.recorded = 0
        self.full = False

    def __call__(
        self, run: Callable[[], Any], device: torch.device, pool: object
    ) -> tuple[FakeGraph, Any]:
        self.recorded += 1
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result = run()
        return FakeGraph(run, result), result


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(cuda_graphs, "record", found)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return found


def recordings() -> Recordings:
    network = Network(Twice().eval())
    return Recordings(network.original, network)


def called(*args: Any) -> Call:
    found = Network(Twice()).call(args, {})
    assert found is not None
    return found


def images(width: int, value: float = 1.0) -> torch.Tensor:
    return torch.full((1, 3, 4, width), value)


@torch.inference_mode()
def test_a_recorded_size_answers_every_input_of_that_size(recorder: Recorder) -> None:
    call = recordings()
    call.record(called(images(5)))
    first, second = call(images(5, 3.0)), call(images(5, 7.0))
    assert recorder.recorded == 1
    assert float(first["twice"][0][0, 0, 0, 0]) == 6 and first["twice"][1] == "name"
    assert float(second["sum"]) == 7 * 60  # and `first` kept its own values
    assert float(call(images(5), 4.0)["twice"][0].max()) == 4  # another constant: another size
    assert recorder.recorded == 1


@torch.inference_mode()
def test_a_size_is_recorded_when_it_comes_for_the_third_time(recorder: Recorder) -> None:
    call = recordings()
    for turn, recorded in enumerate((0, 0, 1, 1)):
        assert float(call(images(6, turn))["twice"][0].max()) == 2 * turn
        assert recorder.recorded == recorded


@torch.inference_mode()
def test_the_sizes_used_last_are_kept(recorder: Recorder) -> None:
    call = recordings()
    for width in range(1, RECORDED_SIZES + 2):
        for _ in range(3):
            call(images(width))
    assert recorder.recorded == RECORDED_SIZES + 1
    call(images(RECORDED_SIZES + 1))
    call(images(2))
    assert recorder.recorded == RECORDED_SIZES + 1
    for _ in range(3):
        call(images(1))  # was dropped
    assert recorder.recorded == RECORDED_SIZES + 2


@torch.inference_mode()
def test_a_request_is_answered_when_its_size_cannot_be_recorded(recorder: Recorder) -> None:
    call = recordings()
    recorder.full = True
    for turn in range(6):
        assert float(call(images(3, turn))["twice"][0].max()) == 2 * turn
    assert recorder.recorded == 1  # and it is not tried with every request
    with pytest.raises(EngineUnavailableError, match="cannot be recorded: CUDA out of memory"):
        call.record(called(images(3)))


def test_training_goes_to_the_network(recorder: Recorder) -> None:
    call = recordings()
    x = images(2).requires_grad_()
    for _ in range(4):
        call(x)["sum"].backward()
    assert recorder.recorded == 0 and x.grad is not None


@torch.inference_mode()
def test_a_size_is_the_same_however_its_arguments_are_given(recorder: Recorder) -> None:
    call = recordings()
    call.record(called(images(5)))
    for found in (call(images(5), 2.0), call(x=images(5)), call(images(5), scale=2.0)):
        assert float(found["twice"][0].max()) == 2
    assert recorder.recorded == 1
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        call(scale=2.0)


@pytest.mark.parametrize("name", ["cuda-graph", "half"])
def test_a_model_on_the_cpu_has_no_cuda_graph(name: str) -> None:
    assert "and the model is on cpu" in (ENGINES[name].missing(torch.device("cpu")) or "")
    assert ENGINES[name].missing(CUDA) is None


def test_half_keeps_the_loaded_weights_and_those_of_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(5, 5)).eval()

    class Situation:
        folded = model

        def call(self) -> Call:
            return Call.of((torch.zeros(1, 3, 7, 7),))

    smaller = Half().prepared(Situation())  # type: ignore[arg-type]
    types = {name: each.dtype for name, each in smaller.named_parameters()}
    halves = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert {name for name, dtype in types.items() if dtype == torch.float16} == halves
    assert smaller[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(each.dtype == torch.float32 for each in model.parameters())
    assert CudaGraph.exact and not Half.exact
