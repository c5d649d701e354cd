"""Options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Plugins = Annotated[
    list[str] | None, typer.Option(help="A module that registers your own classes.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key.path=value; may be repeated.")
]
Section = Annotated[
    str | None,
    typer.Option("--config", help="Section of FourCastNet's YAML [afno_backbone].", metavar="NAME"),
]
Proposals = Annotated[
    Path | None,
    typer.Option(help="A file of proposals (.pkl or .json), for a Fast R-CNN."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
BundleOrConfig = Annotated[
    str, typer.Argument(help="A shipped bundle, a folder, hf://ORG/NAME, or a config file.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="The checkpoint of a config file, or its URL, downloaded once."),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of an hf:// id.", metavar="NAME")
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Download nothing; hf:// ids and URLs must be in the cache."),
]
Device = Annotated[
    str | None, typer.Option(help="Where the model computes: cpu, cuda, cuda:1, mps, ... [cpu]")
]
Optimization = Annotated[
    str,
    typer.Option(
        help="How the network is executed: auto, eager, folded, compiled, onnxruntime, openvino, "
        "int8, ...; see docs/optimizations.md."
    ),
]
Tta = Annotated[bool, typer.Option("--tta", help="Detectors of boxes: merge several views.")]


SHARED = ("config_path", "env", "max_parameters", "max_modules")


def add_config_options(command: Any) -> None:
    """Adds --config-path, --env and the limits of builds to a command, or to a group's commands.

    They are written to the environment while the command runs, so that the processes that it
    starts read and build configs by the same rules.
    """
    if hasattr(command, "commands"):
        for each in command.commands.values():
            add_config_options(each)
        return
    donor = typer.Typer(add_completion=False)
    donor.command()(_config_options)
    options = typer.main.get_command(donor).params
    command.params.extend(each for each in options if each.name in SHARED)


def _keep(context: typer.Context, variable: str, text: str) -> None:
    """Sets an environment variable until the command ends."""
    before = os.environ.get(variable)

    def restore() -> None:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before

    context.call_on_close(restore)
    os.environ[variable] = text


def _put_first(variable: str, separator: str) -> Callable[..., None]:
    """A callback that puts an option's values in front of those of an environment variable."""

    def callback(context: typer.Context, values: list[str] | None) -> None:
        if values:
            before = os.environ.get(variable)
            _keep(context, variable, separator.join([*values, *([before] if before else [])]))

    return callback


def _limit(variable: str) -> Callable[..., None]:
    """A callback that writes a number to an environment variable."""

    def callback(context: typer.Context, value: float | None) -> None:
        if value is not None:
            _keep(context, variable, str(value))

    return callback


def _config_options(
    config_path: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder that bases may lie in, such as an unpacked wheel; may be repeated.",
            metavar="FOLDER",
            callback=_put_first("CUPOLA_CONFIG_PATH", os.pathsep),
            expose_value=False,
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Environment variable that {{$NAME:default}} may read; may be repeated.",
            metavar="NAME",
            callback=_put_first("CUPOLA_CONFIG_ENV", ","),
            expose_value=False,
        ),
    ] = None,
    max_parameters: Annotated[
        float | None,
        typer.Option(
            help="Most parameters that a config's model may have, such as 8e9.",
            metavar="NUMBER",
            min=1,
            callback=_limit("CUPOLA_MAX_PARAMETERS"),
            expose_value=False,
        ),
    ] = None,
    max_modules: Annotated[
        float | None,
        typer.Option(
            help="Most modules that a config's model may have.",
            metavar="NUMBER",
            min=1,
            callback=_limit("CUPOLA_MAX_MODULES"),
            expose_value=False,
        ),
    ] = None,
) -> None:
    """The options that `add_config_options` adds; it is never called."""
