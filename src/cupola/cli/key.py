"""`cupola key NAME`: a new API key, and the entry with its hash for the server's settings."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the key in logs and errors.")],
    toml: Annotated[bool, typer.Option("--toml", help="Print the entry as TOML.")] = False,
) -> None:
    """Make an API key. It is shown once: the settings contain only its hash."""
    from cupola.errors import CupolaError
    from cupola.serve.access.keys import hash_of, new_key
    from cupola.serve.settings.access import ApiKey

    made = new_key()
    try:
        entry = ApiKey.model_validate({"name": name, "hash": hash_of(made)})
    except ValueError:
        text = "expected 1 to 64 letters, digits and characters of `.@_-`"
        raise CupolaError(f"name {name!r}: {text}") from None
    print(f"key: {made}\n")
    if toml:
        print(f'[[api_keys]]\nname = "{entry.name}"\nhash = "{entry.hash}"')
    else:
        print(f"api_keys:\n- name: {entry.name}\n  hash: {entry.hash}")
