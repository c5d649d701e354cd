"""`cupola COMMAND ...`: finds the command's file; prints user errors as one line, exit code 2."""

import atexit
import gc
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from cupola.cli.options import add_config_options
from cupola.cores import limit_spinning, respect_quota
from cupola.errors import CupolaError

# Command -> its line in `cupola --help`, roughly in the order in which a new user needs them.
# Each is in cupola/cli/COMMAND.py, as `app`, a typer.Typer.
COMMANDS = {
    "serve": "Serve bundles over HTTP, with a master and worker processes.",
    "predict": "Run a model on a file and draw the result.",
    "forecast": "Roll a weather or PDE model forward in time.",
    "generate": "Continue a text.",
    "train": "Train a model from a config.",
    "evaluate": "Measure a bundle on a dataset.",
    "data": "Generate a dataset, or fetch one from packages.",
    "explain": "Show what a config or bundle builds: order, shapes, cost, source.",
    "bundle": "Make a bundle from a published config and checkpoint.",
    "convert": "Translate a checkpoint between dialects.",
    "export": "Write ONNX or torch.export files.",
    "verify": "Check a bundle's hashes, build and recorded example.",
    "config": "Show a config, or compare two.",
    "coverage": "List which configs can be read and built, and the classes they lack.",
    "key": "Make an API key for the server.",
    "check": "Test the server's settings.",
    "ray": "Write a config file for serving on a Ray cluster.",
    "signal": "Send a signal to a running master: reload, quit, stop, reopen, upgrade.",
    "status": "Show a running server's processes.",
}
READ_CONFIGS = {
    *("bundle", "config", "convert", "coverage", "evaluate", "explain", "export", "predict"),
    "train",
}


class LazyGroup(TyperGroup):
    """Imports a command's module on first use, so that help and signals stay free of torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if find_spec(f"cupola.cli.{name}")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS or not find_spec(f"cupola.cli.{cmd_name}"):
            return None
        command = typer.main.get_command(import_module(f"cupola.cli.{cmd_name}").app)
        if cmd_name in READ_CONFIGS:
            add_config_options(command)
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Build, run, train, inspect and serve the DETR family, DETR3D, FourCastNet and BLOOM."""


def main() -> None:
    """Entry point of the `cupola` command."""
    respect_quota()
    limit_spinning()
    # Looking for garbage in all of torch's modules once more takes 0.4 s, and frees nothing of use.
    atexit.register(gc.freeze)
    try:
        app()
    except CupolaError as error:
        print(f"cupola: {error}", file=sys.stderr)
        sys.exit(2)
