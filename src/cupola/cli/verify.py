"""`cupola verify BUNDLE`: hashes, card, build record, and the recorded example."""

from typing import Annotated

import typer

from cupola.cli.options import Offline, Plugins, Revision

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or hf://ORG/NAME.")],
    plugin: Plugins = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Check a bundle: one line per check, exit code 1 if one fails."""
    import sys

    from cupola.bundles import Bundle
    from cupola.registry import load_plugins
    from cupola.runtime.verification import verify_bundle

    load_plugins(plugin or [])
    checks = verify_bundle(Bundle.load(bundle, revision, offline))
    for check in checks:
        stream = sys.stdout if check.passed else sys.stderr
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.found}", file=stream)
    raise typer.Exit(code=0 if all(check.passed for check in checks) else 1)
