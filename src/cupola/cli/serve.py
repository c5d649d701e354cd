"""`cupola serve`: starts the server."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import Offline

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(help="Bundle names, folders or hf:// ids; default: all shipped bundles."),
    ] = None,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            "--model-dir",
            "--model_dir",
            help="Folder whose models are served, as KServe mounts it: a bundle, a folder of "
            "transformers, a config with its checkpoint, or folders with one of these each.",
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            "--model-name", "--model_name", help="Name of the model of --model-dir in URLs."
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="TOML or YAML file.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of worker processes.")] = None,
    pid_file: Annotated[Path | None, typer.Option(help="File for the process id.")] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Module to import in runners; repeatable.")
    ] = None,
    daemon: Annotated[bool, typer.Option("--daemon", help="Detach from the terminal.")] = False,
    offline: Offline = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as NAME=VALUE; repeatable.")
    ] = None,
) -> None:
    """Serve bundles over HTTP. http://HOST:PORT/ is a page to try them."""
    from cupola.serve.ipc import signals

    signals.block()  # before importing anything that may start a thread
    from cupola.serve.master.start import start
    from cupola.serve.settings.flags import collect_flags

    flags = collect_flags(
        bundles,
        host,
        port,
        workers,
        pid_file,
        plugin,
        daemon,
        offline,
        model_dir=model_dir,
        model_name=model_name,
        assignments=assignments or [],
    )
    sys.exit(start(settings, flags))
