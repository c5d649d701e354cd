"""`cupola export BUNDLE OUT`: the network as an ONNX file or a torch.export program."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def export(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or a config file.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .onnx or .pt2.")],
    file_format: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    weights: Annotated[Path | None, typer.Option(help="The checkpoint, with a config.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Of the images, in pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Of the images, in pixels.")] = None,
) -> None:
    """Writes standard operators only, no custom ones; onnxruntime or torch alone can run it."""
    from cupola.errors import InputError
    from cupola.runtime.export import export as write
    from cupola.runtime.predictor import Predictor

    if (height is None) != (width is None):
        raise InputError("give both --height and --width, or neither")
    size = (height, width) if height is not None and width is not None else None
    program = write(Predictor.load(bundle, weights=weights), out, file_format, size)
    ends = [f"{n} {list(t.shape)}" for n, t in zip(program.inputs, program.example, strict=True)]
    print(f"{out}: {', '.join(ends)} -> {', '.join(program.outputs)}")
