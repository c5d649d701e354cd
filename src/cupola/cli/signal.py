"""`cupola signal VERB`: speaks to a running master through its pid file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cupola.errors import CupolaError, did_you_mean

app = typer.Typer(add_completion=False)


@app.command()
def signal(
    verb: Annotated[str, typer.Argument(help="reload, quit, stop, reopen, upgrade, grow, shrink.")],
    pid_file: Annotated[Path | None, typer.Option(help="The master's pid file.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="The server's settings file.")
    ] = None,
) -> None:
    """Tell a running master what to do. Broken settings send nothing and exit with 1."""
    from cupola.serve.ipc.paths import read_pid
    from cupola.serve.master.signals import VERBS

    if verb not in VERBS:
        raise CupolaError(f"unknown signal {verb!r}{did_you_mean(verb, VERBS)}")
    try:
        pid = read_pid(pid_file or _configured(settings))
    except CupolaError as error:
        print(f"cupola: {error}", file=sys.stderr)
        sys.exit(1)
    os.kill(pid, VERBS[verb])


def _configured(settings: Path | None) -> Path:
    """The pid file that the settings name; reading them tests them."""
    from cupola.serve.settings.file import load_settings

    found = load_settings(settings).pid_file
    if found is None:
        raise CupolaError("no pid file: give --pid-file, or --settings with `pid_file`")
    return found
