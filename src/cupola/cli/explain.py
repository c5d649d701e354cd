"""`cupola explain CONFIG_OR_BUNDLE`: what it builds, in which order, from which lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cupola.cli.explain_printing import print_differences, print_order, print_ranks, print_tree
from cupola.cli.explained_model import load_model
from cupola.cli.options import Device, Offline, Overrides, Plugins, Revision, Section
from cupola.errors import InputError

app = typer.Typer(add_completion=False)

Truth = Annotated[
    Path | None,
    typer.Option(help="JSON with the image's `boxes` (xyxy) and `labels`: shows the matching."),
]
Image = Annotated[
    Path | None,
    typer.Option(help="An image or a sample folder that the page shows [a bundle's example]."),
]
Text = Annotated[str | None, typer.Option(help="The text that the page shows a language model on.")]
Weights = Annotated[
    str | None, typer.Option(help="A checkpoint, or its URL: shows which of its keys went where.")
]
Compare = Annotated[Path | None, typer.Option(help="Compare with a record of another build.")]
Ranks = Annotated[
    int | None,
    typer.Option(
        min=1, max=64, help="Run a language model's embedding and loss on so many processes."
    ),
]
Engines = Annotated[
    bool,
    typer.Option(
        "--optimizations",
        help="Build and measure every engine on the example, and keep the choice of `auto`.",
    ),
]

ALWAYS = {"source", "plugin", "revision", "offline"}
BUILT = {"--weights", "--build-record", "--set", "--config"}
# What is shown, and the options that it uses; "" is the tree.
USES = {
    "--ranks": {"--text"},
    "--compare": BUILT,
    "--order": BUILT,
    "--html": {*BUILT, "--input", "--image", "--truth", "--text", "--optimizations"},
    "--optimizations": {"--weights", "--set", "--device"},
    "": {*BUILT, "--input", "--depth"},
}


@app.command()
def explain(
    source: Annotated[
        str, typer.Argument(help="A config file, a shipped bundle, a folder, or hf://ORG/NAME.")
    ],
    input_: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample: 3x800x1066.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    image: Image = None,
    truth: Truth = None,
    text: Text = None,
    ranks: Ranks = None,
    weights: Weights = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of the tree to print.")] = None,
    order: Annotated[bool, typer.Option(help="Print the order of the build instead.")] = False,
    build_record: Annotated[
        Path | None, typer.Option(help="Write the record of the build as JSON.")
    ] = None,
    compare: Compare = None,
    optimizations: Engines = False,
    device: Device = None,
    section: Section = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Build a model, run it once, and show its parts with shapes, cost and source lines."""
    refuse_unused(locals())
    from cupola.bundles import Bundle
    from cupola.registry import load_plugins
    from cupola.runtime.load import is_config

    load_plugins(plugin or [])
    bundle = None if is_config(source) else Bundle.load(source, revision, offline)
    if ranks is not None:
        print_ranks(source, bundle, text, ranks)
        return
    engines = None
    if optimizations:
        engines = measured_engines(source, weights, device, revision, offline, set_ or [])
        if html is None:
            return
    model, origins = load_model(source, bundle, set_ or [], section, weights, offline)
    if build_record is not None:
        model.build_record.save(build_record)
    if compare is not None:
        print_differences(model, compare)
    elif order:
        print_order(model)
    else:
        runs = not any(each.is_meta for each in model.parameters())
        description = describe_model(model, source, bundle, input_, runs, origins)
        if html is None:
            print_tree(description, depth)
        else:
            shown = (image, truth, text) if runs else None
            write_page(html, description, model, source, bundle, shown, engines)
        print(description.summary())


def refuse_unused(arguments: Mapping[str, Any]) -> None:
    """Raises InputError for an option of the command that what is shown does not use."""
    names = {"input_": "--input", "set_": "--set", "section": "--config"}
    given = {
        names.get(key, f"--{key.replace('_', '-')}")
        for key, value in arguments.items()
        if key not in ALWAYS and value is not None and value is not False
    }
    shown = next((each for each in USES if each in given), "")
    used = USES[shown] | ({"--device"} if "--optimizations" in given else set())
    if unused := sorted(given - used - {shown}):
        pages = sorted(name for name, uses in USES.items() if name and unused[0] in uses)
        hint = f"; it goes with {' or '.join(pages)}" if pages else ""
        where = f"with {shown}" if shown else "on the printed tree"
        raise InputError(f"explain: {unused[0]} has no effect {where}{hint}")


def measured_engines(source: str, *how: Any) -> dict[str, Any]:
    """Measures and prints the engines of a model; returns what the page shows of them."""
    from cupola.cli.explained_engines import measure_engines, print_engines

    engines = measure_engines(source, *how)
    print_engines(engines)
    return engines.to_dict()


def describe_model(
    model: Any, source: str, bundle: Any, size: str | None, runs: bool, origins: Any
) -> Any:
    """The description of a model, which runs once unless it has no weights."""
    from cupola.inspect import describe
    from cupola.inspect.example_inputs import parse_shape
    from cupola.inspect.own_shape import own_shape

    shape = parse_shape(size) if size else own_shape(model, source, bundle)
    return describe(model, shape if runs else None, run=runs, origins=origins)


def write_page(
    path: Path,
    description: Any,
    model: Any,
    source: str,
    bundle: Any,
    shown: Any,
    engines: dict[str, Any] | None = None,
) -> None:
    """Write a description as HTML; `shown` is the image, its truth and the text of the views."""
    from cupola.inspect import page
    from cupola.inspect.views import view_of

    view = None if shown is None else view_of(model, bundle, *shown)
    title = bundle.name if bundle else Path(source).stem
    path.write_text(page(description, title, view, engines), encoding="utf-8")
    print(f"{path}: written")
