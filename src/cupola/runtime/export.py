"""Writes a predictor's network as an ONNX file or a torch.export program: standard operators only.

The graph takes what the network takes after preprocessing and gives its last layer's raw outputs;
batch and image size are those of the example.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.runtime.predictor import Predictor

FORMATS = ("onnx", "torch")
OPSET = 18


@dataclass(frozen=True)
class Program:
    """What is exported: a torch module, an example of its inputs, and the names of both ends."""

    module: torch.nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Detection(torch.nn.Module):
    """pixels [1, 3, H, W] -> logits [1, Q, C + 1], boxes [1, Q, 4] of the last layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(pixels)
        return output.logits[-1], output.boxes[-1]


class Detection3D(torch.nn.Module):
    """pixels [1, N, 3, H, W], lidar2img [1, N, 4, 4] -> logits [1, Q, C], codes [1, Q, 10]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, lidar2img: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(pixels, lidar2img, (pixels.shape[-2], pixels.shape[-1]))
        return output.logits[-1], output.boxes[-1]


class Forecast(torch.nn.Module):
    """x [1, C, H, W] -> y [1, C_out, H, W]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


def _detection(predictor: Any, size: tuple[int, int] | None) -> Program:
    short = predictor.short or predictor.long or 800
    height, width = size or (short, predictor.long or short)
    example = (torch.zeros(1, 3, height, width),)
    module = Detection(nn.to_torch(predictor.model))
    return Program(module, example, ("pixels",), ("logits", "boxes"))


def _detection3d(predictor: Any, size: tuple[int, int] | None) -> Program:
    height, width = (-(-s // predictor.divisor) * predictor.divisor for s in size or predictor.size)
    cameras = predictor.cameras
    example = (torch.zeros(1, cameras, 3, height, width), torch.eye(4).expand(1, cameras, 4, 4))
    module = Detection3D(nn.to_torch(predictor.model))
    return Program(module, example, ("pixels", "lidar2img"), ("logits", "boxes"))


def _forecast(predictor: Any, size: tuple[int, int] | None) -> Program:
    height, width = size or predictor.grid.shape
    example = (torch.zeros(1, len(predictor.channels), height, width),)
    return Program(Forecast(nn.to_torch(predictor.model)), example, ("x",), ("y",))


PROGRAMS: dict[str, Callable[[Any, tuple[int, int] | None], Program]] = {
    "detection": _detection,
    "detection3d": _detection3d,
    "forecast": _forecast,
}


def export(
    predictor: Predictor, out: Path, file_format: str = "onnx", size: tuple[int, int] | None = None
) -> Program:
    """Writes the network to `out`; `size` is (height, width) of the example's images.

    The predictor's model is in eval mode and bridged to torch.nn.Module afterwards. Raises
    InputError for a task without an export, or an unknown format.
    """
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r} is none of {FORMATS}")
    if predictor.task not in PROGRAMS:
        raise InputError(
            f"{predictor.name}: a {predictor.task} model has no export; tasks with one: "
            f"{sorted(PROGRAMS)}"
        )
    program = PROGRAMS[predictor.task](predictor, size)
    program.module.eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        if file_format == "torch":
            torch.export.save(torch.export.export(program.module, program.example), out)
        else:
            _write_onnx(program, out)
    return program


def _write_onnx(program: Program, out: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("writing ONNX needs `pip install cupola[export]`") from None
    torch.onnx.export(
        program.module,
        program.example,
        str(out),
        input_names=list(program.inputs),
        output_names=list(program.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
