"""`cupola train CONFIG`."""

from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import Overrides, Plugins, Section

app = typer.Typer(add_completion=False)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A config file, or the name of a shipped one.")],
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints and logs (default: work_dirs/CONFIG)."),
    ] = None,
    section: Section = None,
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    plugin: Plugins = None,
    quiet: Annotated[bool, typer.Option(help="Print nothing but errors.")] = False,
    bundle_only: Annotated[
        bool, typer.Option(help="Do not train; write a bundle of the best checkpoint so far.")
    ] = False,
) -> None:
    """Train a model from a config, and write a bundle if the config has one."""
    from cupola.train.recipe import train_recipe

    written = train_recipe(
        config,
        work_dir=work_dir,
        overrides=set_ or [],
        resume=resume,
        plugins=plugin or [],
        quiet=quiet,
        bundle_only=bundle_only,
        section=section,
    )
    if written is not None:
        from cupola.runtime.load import load_predictor
        from cupola.runtime.recorded_example import record_answer

        record_answer(load_predictor(written), written)
        print(written)
