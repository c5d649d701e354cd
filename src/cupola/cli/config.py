"""`cupola config show CONFIG` and `cupola config diff A B`."""

from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import Overrides

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def config() -> None:
    """Shows a config with its bases merged, or compares two configs. Nothing is executed."""


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A .py, .json, .yaml or .toml config.")],
    key: Annotated[
        str | None, typer.Option(help="Show only this part, such as model.backbone.")
    ] = None,
    set_: Overrides = None,
    format_: Annotated[str, typer.Option("--format", help="py, json or yaml.")] = "py",
    origins: Annotated[bool, typer.Option(help="Show which line wrote each value.")] = False,
) -> None:
    """Prints a config with its bases merged and overrides applied."""
    from cupola.config import Config
    from cupola.config.formats import write
    from cupola.errors import printable

    cfg = Config.load(path).override(set_ or [])
    if origins:
        for where, value, origin in cfg.leaves():
            if key is None or f"{where}.".startswith(f"{key}."):
                print(printable(f"{where} = {value!r}  # {origin}"))
        return
    part = cfg.to_dict() if key is None else {key.rpartition(".")[2]: cfg.at(key)}
    print(write(part, f".{format_}"), end="")


@app.command("diff")
def compare(
    left: Annotated[Path, typer.Argument(help="A config.")],
    right: Annotated[Path, typer.Argument(help="Another config.")],
    origins: Annotated[bool, typer.Option(help="Show which lines wrote the values.")] = False,
) -> None:
    """Prints every value that differs between two configs; exit code 1 if there is one."""
    from rich.console import Console

    from cupola.config import Config, diff
    from cupola.errors import printable

    console = Console(highlight=False, soft_wrap=True)
    colors = {"+": "green", "-": "red", "~": "yellow"}
    changes = diff(Config.load(left), Config.load(right))
    for change in changes:
        console.print(str(change), style=colors[str(change)[0]], markup=False)
        if origins:
            places = [place for place in (change.left_origin, change.right_origin) if place]
            console.print(printable(f"    {' -> '.join(places)}"), style="dim", markup=False)
    raise typer.Exit(code=1 if changes else 0)
