"""What `cupola explain` prints: the tree, the order of the build, differences, ranks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cupola.cli.explained_model import load_model

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.inspect import ModelDescription


def print_tree(description: "ModelDescription", depth: int | None) -> None:
    """Prints the modules; long lines are not wrapped."""
    from rich.console import Console

    Console(width=1000, markup=False).print(description.table(depth))


def print_ranks(source: str, bundle: "Bundle | None", text: str | None, ranks: int) -> None:
    """Prints what every rank holds and computes for a text, and the loss that they agree on."""
    from rich.console import Console
    from rich.table import Table

    from cupola.errors import InputError
    from cupola.inspect.ranks import over_ranks
    from cupola.inspect.views import prompt_of
    from cupola.runtime import tasks

    if bundle is None or bundle.task != "language":
        raise InputError(f"{source}: --ranks is for a bundle of a language model")
    predictor: Any = tasks.find(bundle.task).predictor(bundle, load_model(source, bundle, [])[0])
    ids = predictor.sample(text or prompt_of(bundle), {}).ids
    pieces = [predictor.tokenizer.decode([token]) for token in ids]
    steps = over_ranks(bundle.model_config, bundle.weights_path, ids, ranks)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "rows", "looks up", "largest logit", "sum of exp", "target - largest"):
        table.add_column(column)
    for each in steps:
        found = " ".join(repr(pieces[position]) for position in each.found) or "nothing"
        chosen = "elsewhere" if each.chosen is None else f"{each.chosen:.4f}"
        rows = f"{each.first} to {each.last - 1}"
        numbers = (f"{each.largest:.4f}", f"{each.total:.4f}", chosen)
        table.add_row(str(each.rank), rows, found, *numbers)
    Console(width=200, markup=False).print(table)
    total = sum(each.total for each in steps)
    print(
        f"all-reduce: the largest is {max(each.largest for each in steps):.4f}, the sum {total:.4f}"
    )
    print(
        f"loss of {pieces[-1]!r} after {''.join(pieces[:-1])!r}: {steps[0].loss:.4f} on every rank"
    )


def print_order(model: Any) -> None:
    for part in model.build_record.parts:
        made = f"  by {part.made_by.rpartition('.')[2]} at {part.made_at}" if part.made_by else ""
        print(f"{part.order:4} {part.path or 'model'}: {part.class_name} ({part.source}){made}")


def print_differences(model: Any, other: Path) -> None:
    from cupola.registry import BuildRecord

    differences = BuildRecord.load(other).compare(model.build_record)
    for difference in differences:
        print(difference)
    raise typer.Exit(code=1 if differences else 0)
