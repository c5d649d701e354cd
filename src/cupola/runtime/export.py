"""Writes a network as an ONNX file or a torch.export program, with standard operators only.

The graph takes what the network takes after preprocessing and returns its raw outputs; batch and
image size are those of the example.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cupola.errors import InputError

FORMATS = ("onnx", "torch")
OPSET = 18


@dataclass(frozen=True)
class Program:
    """A torch module in the form that is exported, an example of its inputs, and all names."""

    module: torch.nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def export(program: Program, out: Path, file_format: str = "onnx") -> None:
    """Writes a program, as a task's `program(predictor, size)` gives it, to the file `out`.

    InputError for an unknown format.
    """
    if file_format not in FORMATS:
        raise InputError(f"unknown format {file_format!r}; expected one of {FORMATS}")
    program.module.eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        if file_format == "torch":
            torch.export.save(torch.export.export(program.module, program.example), out)
        else:
            _write_onnx(program, out)


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
