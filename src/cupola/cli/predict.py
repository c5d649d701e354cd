"""`cupola predict BUNDLE IMAGE`: a table on the terminal, and a drawn image with --out."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def predict(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or a config file.")],
    source: Annotated[
        Path | None, typer.Argument(help="The image, or a sample folder [the bundle's own].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to draw what was found.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The checkpoint, with a config.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least score.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Runs a detector on an image or a sample; bad input gets one clear line and exit code 2."""
    from cupola.runtime.predictor import Predictor

    source = own_example(bundle) if source is None else source
    if not source.is_dir():
        read(source)  # a broken image is told before a model is loaded
    predictor = Predictor.load(bundle, weights=weights)
    found, drawn = look(predictor, source, threshold)
    rows = found.to_list()
    if as_json:
        import json

        print(json.dumps(rows, ensure_ascii=False))
    elif predictor.task == "detection3d":
        show3d(rows)
    else:
        show(rows)
    if out is not None:
        from cupola.errors import InputError

        try:
            drawn().save(out)
        except (OSError, ValueError) as error:
            raise InputError(f"{out}: cannot be written ({error})") from None


def own_example(bundle: str) -> Path:
    """What a bundle brings along to look at; its place is told, since nobody named it."""
    import sys

    from cupola.bundles import Bundle
    from cupola.config import CONFIG_SUFFIXES
    from cupola.errors import InputError

    if Path(bundle).suffix not in CONFIG_SUFFIXES:
        folder = Bundle.load(bundle).path / "example"
        for mark, source in (("sample.json", folder), ("image.png", folder / "image.png")):
            if (folder / mark).is_file():
                print(f"example: {source}", file=sys.stderr)
                return source
    raise InputError(f"{bundle} brings no example: name an image or a sample folder")


def read(source: Path) -> Any:
    """The image's pixels; InputError where it is none."""
    from cupola.runtime.io.images import read_image

    return read_image(source)


def look(predictor: Any, source: Path, threshold: float | None) -> tuple[Any, Callable[[], Any]]:
    """What a detector finds, and how to draw it: on the image, or on a sample's six."""
    if predictor.task == "detection3d":
        from cupola.runtime.io.drawing3d import draw_sample
        from cupola.runtime.io.sample_folder import read_sample

        sample = predictor.sample(*read_sample(source))
        found = predictor.predict(sample, threshold)
        return found, lambda: draw_sample(sample.images, sample.lidar2img, found)
    from cupola.runtime.io.drawing import draw

    pixels = read(source)
    found = predictor(pixels, threshold)
    return found, lambda: draw(pixels, found)


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


def show3d(rows: list[dict[str, Any]]) -> None:
    """Prints 3-D detections as a table: meters, degrees, meters per second."""
    import math

    from rich.console import Console
    from rich.table import Table

    table = Table("class", "score", "right", "ahead", "l x w x h", "yaw", "speed")
    for row in rows:
        size = " x ".join(f"{side:.1f}" for side in row["size"])
        place = [f"{meters:.1f}" for meters in row["bottom"][:2]]
        yaw, speed = f"{math.degrees(row['yaw']):.0f}", f"{math.hypot(*row['velocity']):.1f}"
        table.add_row(row["name"], f"{row['score']:.3f}", *place, size, yaw, speed)
    Console().print(table if rows else "nothing found")
