"""`cupola predict BUNDLE INPUT`: a table on the terminal, and a drawn image with --out."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import (
    AsJson,
    BundleOrConfig,
    Checkpoint,
    Device,
    Offline,
    Overrides,
    Proposals,
    Revision,
    Tta,
)

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.tasks import Answer, Task

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    bundle: BundleOrConfig,
    source: Annotated[
        Path | None, typer.Argument(help="An image or a sample folder [the bundle's example].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Image file for the drawn result.")] = None,
    weights: Checkpoint = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Minimum score.")] = None,
    text: Annotated[
        str | None,
        typer.Option(help="What to look for, for models that search for it: 'cat . dog .'"),
    ] = None,
    proposals: Proposals = None,
    set_: Overrides = None,
    as_json: AsJson = False,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = None,
    tta: Tta = False,
    optimization: Annotated[
        str | None,
        typer.Option(
            help="How the network is executed, as for `evaluate`; auto measures the engines first. "
            "[auto, without measuring]"
        ),
    ] = None,
) -> None:
    """Run a model on an image or a sample folder."""
    from cupola.runtime import tasks
    from cupola.runtime.load import load_predictor, open_bundle
    from cupola.runtime.optimize.memory import keep_freed_memory

    opened = open_bundle(bundle, weights, revision, offline, set_ or [])
    task = tasks.find(opened.task)
    source = source or example_of(task, opened)
    content = task.read(source)  # before the model is loaded
    keep_freed_memory()
    predictor = load_predictor(
        opened,
        device=device,
        tta=tta,
        optimization=optimization or "auto",
        at_once=optimization is None,
    )
    gc.freeze()  # what has been loaded stays to the end
    if text is not None:
        search_for(predictor, text)
    if proposals is not None:
        predictor = with_proposals(predictor, proposals, source)
    answer = task.predict(predictor, content, threshold)
    show(answer, as_json)
    if out is not None:
        save_drawing(answer, out)


def search_for(predictor: "Predictor", text: str) -> None:
    """Sets what is looked for; InputError for a model that has its own classes."""
    from cupola.errors import InputError

    if not hasattr(predictor, "text"):
        raise InputError(f"--text: {predictor.name} does not search for a text")
    predictor.text = text


def with_proposals(predictor: Any, file: Path, image: Path | None = None) -> Any:
    """The predictor with a file of proposals, those of `image` given to its next call.

    InputError for a model that has its own.
    """
    from dataclasses import replace

    from cupola.errors import InputError
    from cupola.files.proposals import read_proposals

    if not hasattr(predictor, "proposals"):
        raise InputError(f"--proposals: {predictor.name} does not take proposals")
    found = read_proposals(file)
    given = () if image is None else (found.find(image),)
    return replace(predictor, proposals=found, given=given)


def example_of(task: "Task", bundle: "Bundle") -> Path:
    """The bundle's own example, whose path is printed since the user did not name it."""
    import sys

    from cupola.errors import InputError

    source = task.example(bundle)
    if source is None:
        raise InputError(f"{bundle.name} has no example; pass an image or a sample folder")
    print(f"example: {source}", file=sys.stderr)
    return source


def show(answer: "Answer", as_json: bool) -> None:
    """Prints an answer as a table or as JSON."""
    if as_json:
        import json

        print(json.dumps(answer.rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*answer.columns)
    for cells in answer.cells:
        table.add_row(*cells)
    Console(markup=False).print(table if answer.rows else "nothing found")


def save_drawing(answer: "Answer", out: Path) -> None:
    """Draws an answer into a file; InputError if it has no drawing or cannot be written."""
    from cupola.errors import InputError

    if answer.draw is None:
        raise InputError("--out: answers of this model cannot be drawn")
    try:
        answer.draw().save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"{out}: cannot be written ({error})") from None
