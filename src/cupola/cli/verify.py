"""`cupola verify BUNDLE`: hashes, card, build record, and the recorded input run again."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle's name, or a bundle folder.")],
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module that registers your own classes.")
    ] = None,
) -> None:
    """Checks a bundle; one line per check, exit code 1 if one fails."""
    import sys

    from cupola.bundles import Bundle
    from cupola.registry import load_plugins
    from cupola.runtime.verification import verify_bundle

    load_plugins(plugin or [])
    loaded = Bundle.load(bundle)
    checks = verify_bundle(loaded.path, loaded.config, loaded.card, loaded.weights_path)
    for check in checks:
        stream = sys.stdout if check.passed else sys.stderr
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.said}", file=stream)
    raise typer.Exit(code=0 if all(check.passed for check in checks) else 1)
