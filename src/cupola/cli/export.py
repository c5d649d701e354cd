"""`cupola export BUNDLE OUT`: the network as an ONNX file or a torch.export program."""

from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import BundleOrConfig, Checkpoint, Offline, Revision

app = typer.Typer(add_completion=False)


@app.command()
def export(
    bundle: BundleOrConfig,
    out: Annotated[Path, typer.Argument(help="The file to write: .onnx or .pt2.")],
    file_format: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    weights: Checkpoint = None,
    height: Annotated[int | None, typer.Option(min=1, help="Of the images, in pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Of the images, in pixels.")] = None,
    mask: Annotated[
        bool,
        typer.Option(help="An input for the padding of images of several sizes (detection)."),
    ] = True,
    static: Annotated[
        bool, typer.Option("--static", help="One sample of fixed size, for compilers that need it.")
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Write a network with standard operators only, which onnxruntime or torch alone can run.

    Detectors take any batch, height and width; --height and --width are those of the example that
    is traced.
    """
    from cupola.errors import InputError
    from cupola.runtime import tasks
    from cupola.runtime.export import export as write
    from cupola.runtime.load import load_predictor

    if (height is None) != (width is None):
        raise InputError("give both --height and --width, or neither")
    size = (height, width) if height is not None and width is not None else None
    predictor = load_predictor(bundle, weights, revision=revision, offline=offline)
    program = tasks.find(predictor.task).program(predictor, size)
    if not mask:
        program = program.without("padding_mask")
    if static:
        program = program.fixed()
    write(program, out, file_format)
    sides = [", ".join(map(str, program.shape(i))) for i in range(len(program.inputs))]
    shapes = ", ".join(f"{name} [{each}]" for name, each in zip(program.inputs, sides, strict=True))
    print(f"{out}: {shapes} -> {', '.join(program.outputs)}")
