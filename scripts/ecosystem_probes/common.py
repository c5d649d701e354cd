"""What the probes share: a network in three forms, the list of tools, and running one of them."""

import os
import re
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cupola import nn

# The index has no torchvision for CPUs alone. Without its compiled operators its Python part, which
# several tools import, loads if these two are declared.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1])
ROWS = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(8) % 5


def close(found: Any, expected: Any, **tolerances: float) -> None:
    """torch.testing.assert_close; the error is raised here, which tells it from a tool's own."""
    try:
        torch.testing.assert_close(found, expected, **tolerances)
    except AssertionError as error:
        raise AssertionError(f"other numbers: {error}") from None


def conv_net(nn: Any) -> Any:
    """Convolution, batch norm and linear layers: [B, 3, H, W] -> [B, 5]."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)
            self.act = nn.ReLU()
            self.fc = nn.Linear(4, 8)
            self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.fc(self.act(self.bn(self.conv(x))).mean((2, 3))))

    return Net()


def mlp(nn: Any) -> Any:
    """Two linear layers: [B, 3] -> [B, 5]."""
    return nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 5))


class Form:
    """Makes networks as modules of torch, of Cupola as they are (bare), or bridged."""

    NAMES = ("torch", "bare", "bridged")

    def __init__(self, name: str) -> None:
        self.name = name
        self.nn = torch.nn if name == "torch" else nn
        self.made: list[Any] = []

    def __call__(self, build: Callable[[Any], Any] = conv_net) -> Any:
        """A network in evaluation mode; equal weights at every call."""
        torch.manual_seed(0)
        net = build(self.nn).eval()
        self.made.append(nn.to_torch(net) if self.name == "bridged" else net)
        return self.made[-1]

    def was_bridged(self) -> bool:
        """Whether the tool has bridged a bare network, by an assignment to a torch module."""
        return self.name == "bare" and any(isinstance(net, torch.nn.Module) for net in self.made)


@dataclass(frozen=True)
class Tool:
    """A tool, and a function that uses it on a form and checks that it took effect.

    The function fails an assertion where the tool reports success without effect.
    """

    title: str
    package: str  # the distribution whose version the page prints
    probe: Callable[[Form], None]
    cure: str  # for a tool that does not take a bare module; empty: nn.to_torch(model)


TOOLS: dict[str, Tool] = {}


def tool(title: str, package: str = "torch", cure: str = "") -> Callable[..., Any]:
    """Registers a probe under its function's name."""

    def register(probe: Callable[[Form], None]) -> Callable[[Form], None]:
        TOOLS[probe.__name__] = Tool(title, package, probe, cure)
        return probe

    return register


def outcome(tool: Tool, name: str) -> tuple[str, str]:
    """Run a probe: "works", "bridges" (works, and has bridged it), "error" with its first line, or
    "silent" with what had no effect."""
    form = Form(name)
    try:
        tool.probe(form)
    except BaseException as error:
        of_probe = isinstance(error, AssertionError) and raised_in(error).parent == HERE
        text = re.sub(r"\x1b\[\d*m|[\w.]+\.<locals>\.", "", str(error))  # colors, the probe's path
        line = (text.strip().splitlines() or [""])[0]
        return ("silent", line) if of_probe else ("error", f"{type(error).__name__}: {line}")
    return "bridges" if form.was_bridged() else "works", ""


HERE = Path(__file__).parent


def raised_in(error: BaseException) -> Path:
    """The file whose line raised an error."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename) if trace else Path()


@contextmanager
def process_group() -> Any:
    """A gloo group of this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield dist
    finally:
        dist.destroy_process_group()


def train_step(net: Any, x: torch.Tensor = X, y: torch.Tensor = Y) -> float:
    """One step of SGD; returns the loss."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@contextmanager
def quiet() -> Any:
    """Without what a tool prints."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
