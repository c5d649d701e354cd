"""`cupola VERB ...`: finds the verb's file and turns our errors into one line and exit code 2."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from cupola.errors import CupolaError

# Verb -> what `cupola --help` says of it, in the order of a newcomer's day.
# Each verb stands in cupola/cli/VERB.py, which holds `app`, a typer.Typer.
VERBS = {
    "serve": "Serve bundles over HTTP, under a master and its workers.",
    "predict": "Run a bundle on a file and draw what it found.",
    "forecast": "Roll a weather or PDE model forward in time.",
    "generate": "Continue a text.",
    "train": "Train a model from a config; resumes where it stopped.",
    "evaluate": "Measure a bundle on a dataset.",
    "data": "Generate a dataset, or fetch one from packages.",
    "explain": "Show what a config or bundle builds: order, shapes, cost, source.",
    "bundle": "Make a bundle of a published config and checkpoint.",
    "convert": "Translate a checkpoint between dialects.",
    "export": "Write ONNX or torch.export files.",
    "verify": "Check a bundle's hashes and re-run its recorded input.",
    "config": "Show a config, or compare two.",
    "coverage": "List which configs can be read and built, and the classes they lack.",
    "check": "Test the server's settings.",
    "signal": "Tell a running master: reload, quit, stop, reopen, upgrade.",
    "status": "Show a running server's processes.",
}


class LazyGroup(TyperGroup):
    """Imports a verb's module on first use, so that help and signals stay free of torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb for verb in VERBS if find_spec(f"cupola.cli.{verb}")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS or not find_spec(f"cupola.cli.{cmd_name}"):
            return None
        command = typer.main.get_command(import_module(f"cupola.cli.{cmd_name}").app)
        command.name = cmd_name
        command.short_help = VERBS[cmd_name]
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Cupola builds, runs, trains, shows and serves DETR, DETR3D, FourCastNet and BLOOM."""


def main() -> None:
    """Entry point of the `cupola` command."""
    try:
        app()
    except CupolaError as error:
        print(f"cupola: {error}", file=sys.stderr)
        sys.exit(2)
