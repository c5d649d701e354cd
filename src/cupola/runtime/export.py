"""Writes a network as an ONNX file or a torch.export program, with standard operators only.

The graph takes what the network takes after preprocessing and returns its raw outputs. Axes that a
program declares dynamic, such as batch, height and width of images, may have any size; all others
have that of the example.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from cupola.errors import InputError
from cupola.runtime.onnx_simplifying import simplify

FORMATS = ("onnx", "torch")
OPSET = 18


@dataclass(frozen=True)
class Program:
    """A torch module in the form that is exported, an example of its inputs, and all names.

    `dynamic` has the dynamic axes of each input with their names, {0: "batch"}; in the example none
    of them is 1. Equal names are equal sizes. `static` is the example of a graph without them, by
    default the first sample of `example`.
    """

    module: torch.nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[Mapping[int, str], ...] = ()
    static: tuple[Tensor, ...] = ()

    def fixed(self) -> "Program":
        """The same with one sample of fixed size, and no dynamic axis."""
        example = self.static or tuple(each[:1] for each in self.example)
        return replace(self, example=example, dynamic=(), static=())

    def without(self, name: str) -> "Program":
        """The same without the last input; InputError if that is not its name."""
        if self.inputs[-1] != name:
            raise InputError(f"the exported network has no {name}; its inputs: {self.inputs}")
        example, static = self.example[:-1], self.static[:-1]
        inputs, dynamic = self.inputs[:-1], self.dynamic[:-1]
        return replace(self, inputs=inputs, example=example, dynamic=dynamic, static=static)

    def shape(self, index: int) -> list[int | str]:
        """The shape of an input, with the names of its dynamic axes."""
        named = self.dynamic[index] if self.dynamic else {}
        sizes = self.example[index].shape
        return [named.get(axis, size) for axis, size in enumerate(sizes)]


def export(program: Program, out: Path, file_format: str = "onnx") -> None:
    """Writes a program, as a task's `program(predictor, size)` gives it, to the file `out`.

    InputError for an unknown format, and for a network that torch cannot trace.
    """
    if file_format not in FORMATS:
        raise InputError(f"unknown format {file_format!r}; expected one of {FORMATS}")
    program.module.eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with torch.no_grad():
            if file_format == "torch":
                torch.export.save(_exported(program), out)
            else:
                _write_onnx(program, out)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:  # both exporters' errors are among these
        hint = "; a fixed size may work (--static)" if program.dynamic else ""
        raise InputError(f"torch cannot export this network{hint}: {error}") from error


def _exported(program: Program) -> torch.export.ExportedProgram:
    shapes = tuple(dict.fromkeys(axes, Dim.DYNAMIC) for axes in program.dynamic)
    return torch.export.export(program.module, program.example, dynamic_shapes=shapes or None)


def _write_onnx(program: Program, out: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError("writing ONNX needs `pip install cupola[export]`") from None
    with warnings.catch_warnings():
        # of equal sizes with equal names, as those of pixels and their mask
        warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
        made = torch.onnx.export(
            program.module,
            program.example,
            input_names=list(program.inputs),
            output_names=list(program.outputs),
            dynamic_shapes=tuple(dict(axes) for axes in program.dynamic) or None,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert made is not None
    simplify(made)
    made.save(str(out), external_data=False)
