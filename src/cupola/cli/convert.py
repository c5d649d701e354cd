"""`cupola convert`: a checkpoint in another dialect, or for another number of tensor ranks."""

from pathlib import Path
from typing import Annotated

import typer

from cupola.cli.options import Overrides, Plugins

app = typer.Typer(add_completion=False)
# Small files that make a folder of weights a model.
BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "chat_template.jinja",
)


@app.command()
def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="The config or bundle of the model. With --ranks it may be left out: "
            "`cupola convert CHECKPOINT OUT --ranks 4`."
        ),
    ],
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint file or folder to read.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="The .safetensors file to write; with --ranks, the folder.", show_default=False
        ),
    ] = None,
    source: Annotated[str | None, typer.Option("--from", help="Its dialect [detected].")] = None,
    to: Annotated[
        str, typer.Option(help="The dialect to write; cupola, bloom_hf, megatron, ...")
    ] = "cupola",
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="Language models: write the parts of so many tensor ranks."),
    ] = None,
    version: Annotated[
        float | None, typer.Option(help="Version of a Megatron checkpoint [as it states].")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, for Megatron versions below 2.")
    ] = None,
    set_: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Read a checkpoint safely and write it in another dialect, or for other tensor ranks.

    With --ranks one tensor at a time is in memory, so that a model larger than the memory converts.
    """
    from cupola.errors import CheckpointError

    if ranks is None and to != "megatron":
        if out is None:
            raise CheckpointError("name the model, its checkpoint and the file to write")
        from cupola.registry import load_plugins

        load_plugins(plugin or [])
        _write_file(model, checkpoint, out, source, to, set_ or [])
        return
    if out is None:
        checkpoint, out = Path(model), checkpoint
    if source is not None:
        raise CheckpointError("--from is not used with --ranks: the layout is detected")
    _reshard(checkpoint, out, ranks or 1, to, version, heads)


def _reshard(
    checkpoint: Path, out: Path, ranks: int, to: str, version: float | None, heads: int | None
) -> None:
    """Writes the folder `out`, and beside the weights the small files of the source."""
    import shutil

    from cupola.errors import CheckpointError
    from cupola.weights import reshard

    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such checkpoint file or folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: must be a new or empty folder")
    opened = reshard(checkpoint, out, ranks, to, version=version, heads=heads)
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for name in BESIDE:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    for note in opened.notes:
        print(note)
    for each in opened.disagreements:
        print(f"{each.key}: the ranks differ by up to {each.largest:g}; the mean was written")
    print(f"{out}: {len(opened.shapes())} tensors, dialect {to}, ranks: {ranks}")


def _write_file(
    model: str, checkpoint: Path, out: Path, source: str | None, to: str, overrides: list[str]
) -> None:
    from safetensors.torch import save_file

    from cupola.config import Config
    from cupola.errors import CheckpointError, did_you_mean
    from cupola.runtime.building import build, warn_of_old_boxes
    from cupola.runtime.load import model_config
    from cupola.weights import DIALECTS
    from cupola.weights.own_files import OWN

    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: the file to write must end in .safetensors")
    writers = {name: d.to_theirs for name, d in DIALECTS.items() if d.to_theirs is not None}
    if to != "cupola" and to not in writers:
        known = ["cupola", *sorted(writers)]
        raise CheckpointError(f"--to: {to!r} is not one of {known}{did_you_mean(to, known)}")
    cfg = Config({"model": model_config(model)}).override(overrides).to_dict()["model"]
    warned = warn_of_old_boxes(cfg, checkpoint, source)
    state = build(cfg, weights=checkpoint, dialect=source).state_dict()
    if to != "cupola":
        state = writers[to](state)
    draft = out.with_suffix(".part")
    about = {} if warned or to != "cupola" else OWN
    save_file({key: value.contiguous().clone() for key, value in state.items()}, draft, about)
    draft.replace(out)
    print(f"{out}: {len(state)} tensors, dialect {to}")
