"""`cupola coverage CONFIG|FOLDER ...`: which configs can be read, and which models build."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cupola.cli.options import AsJson, Plugins

if TYPE_CHECKING:
    from cupola.runtime.coverage import Coverage

app = typer.Typer(add_completion=False)


@app.command()
def coverage(
    paths: Annotated[list[Path], typer.Argument(help="Config files, or folders of .py configs.")],
    by_class: Annotated[
        bool, typer.Option("--by-class", help="List the missing classes instead of the configs.")
    ] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Says of each config whether it is read and its model builds, and which classes it lacks."""
    from cupola.registry import load_plugins
    from cupola.runtime.coverage import config_files, cover

    load_plugins(plugin or [])
    covered = [cover(path) for path in config_files(paths)]
    if as_json:
        print_json(covered)
    elif by_class:
        print_classes(covered)
    else:
        print_configs(covered)
    if not as_json:
        print(summary(covered))


def summary(covered: "list[Coverage]") -> str:
    """The totals in one line."""
    counts = Counter(each.status for each in covered)
    read = len(covered) - counts["unreadable"]
    models = read - counts["no model"]
    return f"{len(covered)} files, {read} read, {models} with a model, {counts['builds']} build"


def print_configs(covered: "list[Coverage]") -> None:
    for each in covered:
        detail = ", ".join(each.missing) or each.error.removeprefix(f"{each.path}: ")
        print(f"{each.status:10}  {each.path}{f': {detail}' if detail else ''}")


def print_classes(covered: "list[Coverage]") -> None:
    """Each missing class, how many configs lack it, and how many lack nothing else."""
    from cupola.runtime.coverage import by_class

    print("configs  only this  class")
    for each in by_class(covered):
        print(f"{each.configs:7}  {each.only:9}  {each.name}")


def print_json(covered: "list[Coverage]") -> None:
    from cupola.runtime.coverage import by_class

    made = {
        "totals": {"files": len(covered), **Counter(str(each.status) for each in covered)},
        "configs": [asdict(each) for each in covered],
        "classes": [asdict(each) for each in by_class(covered)],
    }
    print(json.dumps(made, ensure_ascii=False, indent=2))
