"""`cupola convert CHECKPOINT OUT`: a checkpoint in another dialect, written as safetensors."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="The config or bundle of the model.")],
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint file or folder to read.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    source: Annotated[str | None, typer.Option("--from", help="Its dialect [detected].")] = None,
    to: Annotated[str, typer.Option(help="The dialect to write.")] = "cupola",
) -> None:
    """Read a checkpoint safely, check it against the model, and write it in another dialect."""
    from safetensors.torch import save_file

    from cupola.errors import CheckpointError, did_you_mean
    from cupola.runtime.building import build
    from cupola.runtime.load import model_config
    from cupola.weights import DIALECTS

    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: the file to write must end in .safetensors")
    writers = {name: d.to_theirs for name, d in DIALECTS.items() if d.to_theirs is not None}
    if to != "cupola" and to not in writers:
        known = ["cupola", *sorted(writers)]
        raise CheckpointError(f"--to: {to!r} is not one of {known}{did_you_mean(to, known)}")
    state = build(model_config(model), weights=checkpoint, dialect=source).state_dict()
    if to != "cupola":
        state = writers[to](state)
    draft = out.with_suffix(".part")
    save_file({key: value.contiguous().clone() for key, value in state.items()}, draft)
    draft.replace(out)
    print(f"{out}: {len(state)} tensors, dialect {to}")
