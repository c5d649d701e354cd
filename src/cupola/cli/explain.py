"""`cupola explain CONFIG_OR_BUNDLE`: what it builds, in which order, from which lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Offline, Revision

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.inspect import ModelDescription

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    source: Annotated[
        str, typer.Argument(help="A config file, a shipped bundle, a folder, or hf://ORG/NAME.")
    ],
    input_: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample: 3x800x1066.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="An image or a sample folder that the page shows [a bundle's example]."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="JSON with the image's `boxes` (xyxy) and `labels`: shows the matching."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="The text that the page shows a language model on.")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Run a language model's embedding and loss on so many processes."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: shows which of its keys went where.")
    ] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of the tree to print.")] = None,
    order: Annotated[bool, typer.Option(help="Print the order of the build instead.")] = False,
    build_record: Annotated[
        Path | None, typer.Option(help="Write the record of the build as JSON.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Compare with a record of another build.")
    ] = None,
    section: Annotated[
        str | None,
        typer.Option(
            "--config", help="Section of FourCastNet's YAML [afno_backbone].", metavar="NAME"
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value; may be repeated.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module that registers your own classes.")
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Build a model, run it once, and show its parts with shapes, cost and source lines."""
    from cupola.bundles import Bundle
    from cupola.inspect import describe, page
    from cupola.inspect.example_inputs import parse_shape
    from cupola.inspect.own_shape import own_shape
    from cupola.inspect.views import view_of
    from cupola.registry import load_plugins
    from cupola.runtime.load import is_config

    load_plugins(plugin or [])
    bundle = None if is_config(source) else Bundle.load(source, revision, offline)
    if ranks is not None:
        return print_ranks(source, bundle, text, ranks)
    model, origins = load_model(source, bundle, set_ or [], section, weights)
    if build_record is not None:
        model.build_record.save(build_record)
    if compare is not None:
        print_differences(model, compare)
    elif order:
        print_order(model)
    else:
        runs = not any(each.is_meta for each in model.parameters())
        shape = parse_shape(input_) if input_ else own_shape(model, source, bundle)
        description = describe(model, shape if runs else None, run=runs, origins=origins)
        if html is None:
            print_tree(description, depth)
        else:
            view = view_of(model, bundle, image, truth, text) if runs else None
            title = bundle.name if bundle else Path(source).stem
            html.write_text(page(description, title, view), encoding="utf-8")
            print(f"{html}: written")
        print(description.summary())


def build_model(
    source: str, bundle: "Bundle | None", overrides: list[str], section: str | None = None
) -> Any:
    """The model of a config file, or of a bundle, without weights."""
    from cupola.config import Config
    from cupola.errors import ConfigError
    from cupola.models.afno.published import is_published, published_config
    from cupola.runtime.building import without_pretrained

    if bundle is not None:
        cfg = Config({"model": without_pretrained(bundle.model_config)}).override(overrides)
        return build_or_outline(cfg.model)
    cfg = Config.load(source)
    if section is not None or is_published(cfg):
        cfg = Config(published_config(cfg.to_dict(), section, source), Path(source))
    cfg = cfg.override(overrides)
    if "model" not in cfg and "type" not in cfg:
        raise ConfigError(f"{source}: there is no model in this config")
    return build_or_outline(cfg)


def load_model(
    source: str,
    bundle: "Bundle | None",
    overrides: list[str],
    section: str | None = None,
    checkpoint: Path | None = None,
) -> tuple[Any, dict[str, str] | None]:
    """The model with the weights of its bundle or of a checkpoint, and which key went where.

    A bundle whose config is overridden has no weights.
    """
    from cupola import load_weights

    model = build_model(source, bundle, overrides, section)
    if checkpoint is None and bundle is not None and not overrides:
        checkpoint = bundle.weights_path
    if checkpoint is None:
        return model, None
    return model, load_weights(model, checkpoint, assign=True).origins


def build_or_outline(cfg: Any) -> Any:
    """The model of a config; without memory where it has more parameters than memory is for."""
    import cupola
    from cupola import nn
    from cupola.registry.budget import BudgetError

    try:
        return cupola.build(cfg)
    except BudgetError:
        with nn.on_meta():
            return cupola.build(cfg)


def print_tree(description: "ModelDescription", depth: int | None) -> None:
    """Prints the modules; long lines are not wrapped."""
    from rich.console import Console

    Console(width=1000).print(description.table(depth))


def print_ranks(source: str, bundle: "Bundle | None", text: str | None, ranks: int) -> None:
    """Prints what every rank holds and computes for a text, and the loss that they agree on."""
    from rich.console import Console
    from rich.table import Table

    from cupola.errors import InputError
    from cupola.inspect.ranks import over_ranks
    from cupola.inspect.views import prompt_of
    from cupola.runtime import tasks

    if bundle is None or bundle.task != "language":
        raise InputError(f"{source}: --ranks is for a bundle of a language model")
    predictor = tasks.find(bundle.task).predictor(bundle, load_model(source, bundle, [])[0])
    ids = predictor.sample(text or prompt_of(bundle), {}).ids
    pieces = [predictor.tokenizer.decode([token]) for token in ids]
    steps = over_ranks(bundle.model_config, bundle.weights_path, ids, ranks)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "rows", "looks up", "largest logit", "sum of exp", "target - largest"):
        table.add_column(column)
    for each in steps:
        found = " ".join(repr(pieces[position]) for position in each.found) or "nothing"
        chosen = "elsewhere" if each.chosen is None else f"{each.chosen:.4f}"
        rows = f"{each.first} to {each.last - 1}"
        numbers = (f"{each.largest:.4f}", f"{each.total:.4f}", chosen)
        table.add_row(str(each.rank), rows, found, *numbers)
    Console(width=200).print(table)
    total = sum(each.total for each in steps)
    print(
        f"all-reduce: the largest is {max(each.largest for each in steps):.4f}, the sum {total:.4f}"
    )
    print(
        f"loss of {pieces[-1]!r} after {''.join(pieces[:-1])!r}: {steps[0].loss:.4f} on every rank"
    )


def print_order(model: Any) -> None:
    for part in model.build_record.parts:
        made = f"  by {part.made_by.rpartition('.')[2]} at {part.made_at}" if part.made_by else ""
        print(f"{part.order:4} {part.path or 'model'}: {part.class_name} ({part.source}){made}")


def print_differences(model: Any, other: Path) -> None:
    from cupola.registry import BuildRecord

    differences = BuildRecord.load(other).compare(model.build_record)
    for difference in differences:
        print(difference)
    raise typer.Exit(code=1 if differences else 0)
