"""init_weights: the original's order, equal to mmengine's draws."""

from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError
from cupola.registry import init_weights

XAVIER = {"type": "Xavier", "layer": ["Conv2d", "Linear"], "distribution": "uniform", "bias": 0.5}
CASES: list[Any] = [
    XAVIER,
    {"type": "Normal", "layer": "Linear", "std": 0.01, "bias_prob": 0.01},
    {"type": "Constant", "val": 2, "layer": ["_BatchNorm", "_ConvNd"]},
    [
        {"type": "Constant", "val": 3, "layer": "BatchNorm2d"},
        {"type": "Kaiming", "layer": "Conv2d"},
    ],
    {"type": "Caffe2Xavier", "layer": "_ConvNd", "override": {"name": "out"}},
    {"type": "Uniform", "override": {"type": "Constant", "val": 1, "name": "out"}},
    {"type": "TruncNormal", "layer": "Conv2d", "std": 0.02},
]


def build(kit: Any, init_cfg: Any, child_cfg: Any = None, base: Any = None) -> Any:
    """Conv, norm and two linears out of `kit`, cupola.nn or torch.nn."""

    class Child(base or kit.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.init_cfg = child_cfg
            self.inner = kit.Linear(3, 2)

    class Net(base or kit.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.init_cfg = init_cfg
            self.conv = kit.Conv2d(3, 4, 3)
            self.norm = kit.BatchNorm2d(4)
            self.child = Child()
            self.out = kit.Linear(4, 2)

    return Net()


@pytest.mark.parametrize("init_cfg", CASES)
def test_the_draws_are_those_of_mmengine(init_cfg: Any) -> None:
    model = pytest.importorskip("mmengine.model")
    child_cfg = {"type": "Constant", "layer": "Linear", "val": 7}
    peer = build(torch.nn, init_cfg, child_cfg, model.BaseModule)
    ours = build(nn, init_cfg, child_cfg)
    ours.load_state_dict(peer.state_dict())
    torch.manual_seed(3)
    peer.init_weights()
    torch.manual_seed(3)
    init_weights(ours)
    for name, value in peer.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_pretrained_comes_last_and_through_the_loader() -> None:
    calls: list[tuple[str, str, str | None, float]] = []

    def load(module: Any, name: str, prefix: str | None) -> None:
        calls.append((type(module).__name__, name, prefix, module.out.bias[0].item()))

    pretrained = {"type": "Pretrained", "checkpoint": "torchvision://resnet50", "prefix": "b."}
    init_weights(build(nn, [pretrained, XAVIER]), load)
    assert calls == [("Net", "torchvision://resnet50", "b.", 0.5)]
    with pytest.raises(BuildError, match=r"Net is initialized from 'torchvision://resnet50', but"):
        init_weights(build(nn, pretrained))


def test_a_module_that_defines_init_weights_fills_itself_once() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)
            self.calls = 0

        def init_weights(self) -> None:
            self.calls += 1

    own = Own()
    init_weights(nn.Sequential(own, own))
    assert own.calls == 1


@pytest.mark.parametrize(
    ("init_cfg", "message"),
    [
        ({"type": "Xavir", "layer": "Linear"}, "no initializer 'Xavir'; did you mean 'Xavier'"),
        ({**XAVIER, "override": {"name": "oot"}}, "Net has no 'oot' to override; did you mean"),
        ({**XAVIER, "override": {"name": "out", "std": 1}}, "override of 'out' needs a 'type'"),
    ],
)
def test_mistakes_are_named(init_cfg: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        init_weights(build(nn, init_cfg))
