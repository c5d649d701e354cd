"""Options that several commands share."""

from typing import Annotated

import typer

Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of an hf:// id.", metavar="NAME")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Download nothing; hf:// ids must be in the cache.")
]
