"""`cupola signal COMMAND`: sends a signal to a running master, found by its pid file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cupola.errors import CupolaError, did_you_mean

app = typer.Typer(add_completion=False)


@app.command()
def signal(
    command: Annotated[
        str, typer.Argument(help="reload, quit, stop, reopen, upgrade, noaccept, grow or shrink.")
    ],
    pid_file: Annotated[Path | None, typer.Option(help="The master's pid file.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="The server's settings file.")
    ] = None,
) -> None:
    """Send a command to a running master. Invalid settings send nothing and exit with 1."""
    from cupola.serve.ipc.paths import read_pid
    from cupola.serve.ipc.signals import COMMANDS

    if command not in COMMANDS:
        raise CupolaError(f"unknown signal {command!r}{did_you_mean(command, COMMANDS)}")
    try:
        pid = read_pid(pid_file or _configured(settings))
    except CupolaError as error:
        print(f"cupola: {error}", file=sys.stderr)
        sys.exit(1)
    os.kill(pid, COMMANDS[command])


def _configured(settings: Path | None) -> Path:
    """The pid file from the settings, which are validated on the way."""
    from cupola.serve.settings.file import load_settings

    found = load_settings(settings).pid_file
    if found is None:
        raise CupolaError("no pid file: give --pid-file, or --settings with `pid_file`")
    return found
