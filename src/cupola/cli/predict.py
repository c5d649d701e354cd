"""`cupola predict BUNDLE PICTURE`: a table on the terminal, and a drawn picture with --out."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def predict(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or a config file.")],
    source: Annotated[Path, typer.Argument(help="The picture, or a sample folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to draw what was found.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The checkpoint, with a config.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least score.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Runs a detector on a picture; bad input gets one clear line and exit code 2."""
    from cupola.runtime.images import read_image
    from cupola.runtime.predictor import Predictor

    pixels = read_image(source)
    predictor = Predictor.load(bundle, weights=weights)
    found = predictor(pixels, threshold)  # type: ignore[operator]
    rows = found.to_list()
    if as_json:
        import json

        print(json.dumps(rows, ensure_ascii=False))
    else:
        show(rows)
    if out is not None:
        from cupola.errors import InputError
        from cupola.runtime.drawing import draw

        try:
            draw(pixels, found).save(out)
        except (OSError, ValueError) as error:
            raise InputError(f"{out}: cannot be written ({error})") from None


def show(rows: list[dict[str, object]]) -> None:
    """Prints detections as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "score", "left", "top", "right", "bottom")
    for row in rows:
        box = row["box"]
        assert isinstance(box, list)
        table.add_row(str(row["name"]), f"{row['score']:.3f}", *(f"{side:.0f}" for side in box))
    console = Console()
    console.print(table if rows else "nothing found")
