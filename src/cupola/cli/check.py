"""`cupola check`: would this server start? Exit code 0 or 1."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def check(
    bundles: Annotated[list[str] | None, typer.Argument(help="Bundles, as for serve.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-c", help="TOML or YAML file.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of any setting.")
    ] = None,
    dump: Annotated[
        bool, typer.Option("--dump", "-T", help="Print all settings, defaults included.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", "-t", help="Only test (the default).")] = True,
) -> None:
    """Test settings: read them, find the bundles, try the addresses (one in use is fine)."""
    from cupola.errors import CupolaError
    from cupola.serve.settings.checking import check_settings
    from cupola.serve.settings.file import dump_settings
    from cupola.serve.settings.flags import collect_flags

    try:
        loaded = check_settings(settings, collect_flags(bundles, assignments=assignments or []))
    except (CupolaError, OSError) as error:
        print(f"cupola: {error}\ncupola: the test failed", file=sys.stderr)
        sys.exit(1)
    if dump:
        print(dump_settings(loaded), end="")
    print("cupola: the settings are good", file=sys.stderr)
