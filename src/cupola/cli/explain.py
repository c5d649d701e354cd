"""`cupola explain CONFIG_OR_BUNDLE`: what it builds, in which order, from which lines."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cupola.config import CONFIG_SUFFIXES

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    source: Annotated[str, typer.Argument(help="A config file, a shipped bundle, or a folder.")],
    input_: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample: 3x800x1066.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    image: Annotated[
        Path | None,
        typer.Option(help="Show what queries saw in this image, or sample folder (DETR3D)."),
    ] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of the tree to print.")] = None,
    order: Annotated[bool, typer.Option(help="Print the order of the build instead.")] = False,
    build_record: Annotated[
        Path | None, typer.Option(help="Write the record of the build as JSON.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Compare with a record of another build.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key.path=value; may be repeated.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A module that registers your own classes.")
    ] = None,
) -> None:
    """Builds a model, runs it once, and shows its parts with shapes, cost and source lines."""
    from cupola.registry import load_plugins

    load_plugins(plugin or [])
    model = _model(source, set_ or [])
    if build_record is not None:
        model.build_record.save(build_record)
    if compare is not None:
        _compare(model, compare)
    elif order:
        _print_order(model)
    else:
        _explain(model, source, input_, html, image, depth)


def _model(source: str, overrides: list[str]) -> Any:
    """The model of a config file, or of a bundle with its weights."""
    import cupola
    from cupola.config import Config
    from cupola.errors import ConfigError
    from cupola.runtime.building import without_pretrained

    if Path(source).suffix in CONFIG_SUFFIXES:
        cfg = Config.load(source).override(overrides)
        if "model" not in cfg and "type" not in cfg:
            raise ConfigError(f"{source}: there is no model in this config")
        return cupola.build(cfg)
    bundle = cupola.Bundle.load(source)
    cfg = Config({"model": without_pretrained(bundle.config["model"])}).override(overrides)
    weights = None if overrides else bundle.weights_path
    return cupola.build(cfg.model, weights=weights)


def _explain(
    model: Any,
    source: str,
    shape: str | None,
    html: Path | None,
    image: Path | None,
    depth: int | None,
) -> None:
    from rich.console import Console

    from cupola.inspect import describe, page
    from cupola.inspect.example_inputs import parse_shape
    from cupola.inspect.terminal import summary, tree_table

    inputs = parse_shape(shape) if shape else None
    anatomy = describe(model, inputs, run=True)
    if html is None:
        Console(width=1000).print(tree_table(anatomy, depth))  # long lines are not squeezed
    else:
        view = _view(model, source, image) if image else None
        html.write_text(page(anatomy, Path(source).stem, view), encoding="utf-8")
        print(f"{html}: written")
    print(summary(anatomy))


def _view(model: Any, source: str, image: Path) -> dict[str, Any]:
    """What the model saw; a bundle's image is resized and its classes are named as it says."""
    if image.is_dir():
        return _view3d(model, source, image)
    from cupola.inspect.image_view import view_of
    from cupola.runtime.io.images import read_image
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.predictors.detection import DetectionPredictor

    pixels = read_image(image)
    if Path(source).suffix not in CONFIG_SUFFIXES:
        predictor = Predictor.load(source)
        if isinstance(predictor, DetectionPredictor):
            fed = predictor.sample(pixels).pixels[None]
            return view_of(model, pixels, predictor.labels, fed=fed)
    return view_of(model, pixels)


def _view3d(model: Any, source: str, folder: Path) -> dict[str, Any]:
    """Where queries looked in the images of a sample folder, which a bundle knows to read."""
    from cupola.errors import InputError
    from cupola.inspect.cameras_view import view_of_cameras
    from cupola.runtime.io.sample_folder import read_sample
    from cupola.runtime.predictor import Predictor
    from cupola.runtime.predictors.detection3d import Detection3DPredictor

    predictor = None if Path(source).suffix in CONFIG_SUFFIXES else Predictor.load(source)
    if not isinstance(predictor, Detection3DPredictor):
        raise InputError(f"{folder}: a sample folder needs a bundle of a multi-camera model")
    sample = predictor.sample(*read_sample(folder))
    batch = predictor.batch([sample])
    return view_of_cameras(model, sample.images, batch, predictor.labels)


def _print_order(model: Any) -> None:
    for part in model.build_record.parts:
        made = f"  by {part.made_by.rpartition('.')[2]} at {part.made_at}" if part.made_by else ""
        print(f"{part.order:4} {part.path or 'model'}: {part.class_name} ({part.source}){made}")


def _compare(model: Any, other: Path) -> None:
    from cupola.registry import BuildRecord

    differences = BuildRecord.load(other).compare(model.build_record)
    for difference in differences:
        print(difference)
    raise typer.Exit(code=1 if differences else 0)
