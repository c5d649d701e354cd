"""`cupola check`: whether a server would start with these settings. Exit code 0 or 1."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def check(
    bundles: Annotated[
        list[str] | None, typer.Argument(help="Bundle names or folders, as for `cupola serve`.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="TOML or YAML file.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of any setting.")
    ] = None,
    dump: Annotated[
        bool, typer.Option("--dump", "-T", help="Also print all settings, including defaults.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", "-t", help="Only test; the default.")] = True,
) -> None:
    """Test the settings: load them, find the bundles, try the addresses (may be in use).

    Also prints how much shared memory the models need, and warns if there is less.
    """
    from cupola.errors import CupolaError
    from cupola.serve.master.checking import check_settings
    from cupola.serve.master.shared_memory import report, shared_memory
    from cupola.serve.settings.file import dump_settings
    from cupola.serve.settings.flags import collect_flags
    from cupola.serve.settings.models import plan_models

    try:
        loaded = check_settings(settings, collect_flags(bundles, assignments=assignments or []))
        lines = report(shared_memory(loaded, plan_models(loaded)))
    except (CupolaError, OSError) as error:
        print(f"cupola: {error}\ncupola: the settings test failed", file=sys.stderr)
        sys.exit(1)
    if dump:
        print(dump_settings(loaded), end="")
    for line in lines:
        print(f"cupola: {line}", file=sys.stderr)
    print("cupola: the settings are valid", file=sys.stderr)
