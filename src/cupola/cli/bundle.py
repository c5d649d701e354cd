"""`cupola bundle CONFIG CHECKPOINT OUT`: makes a bundle from a published model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cupola.cli.options import Overrides, Plugins, Section

app = typer.Typer(add_completion=False)

ConfigOrFolder = Annotated[
    Path,
    typer.Argument(
        help="The config that the model was trained with, or a detector's folder as "
        "transformers saves it."
    ),
]
Grid = Annotated[
    Path | None, typer.Option(help="Forecast: a file with the model's latitudes, longitudes.")
]
Backbone = Annotated[
    Path | None,
    typer.Option(help="PrecipNet: the checkpoint of the model that advances the state."),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="Language, and detectors that search for a text: tokenizer.json or vocab.txt "
        "[next to the weights]."
    ),
]

CARD = """# {name}

Made by `cupola bundle` from a published config and checkpoint, without any training.

| | |
|---|---|
| config | `{config}` |
| checkpoint | `{checkpoint}`, SHA-256 {digest} |
| data, recipe, metrics | as its publisher states |
| license | {license} |
"""


@app.command()
def bundle(
    config: ConfigOrFolder,
    checkpoint: Annotated[
        str,
        typer.Argument(help="Its weights, in any dialect, or their URL; not for such a folder."),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The folder to write.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name [the folder's].")] = None,
    license: Annotated[str, typer.Option(help="License of the weights.")] = "not stated",
    means: Annotated[
        Path | None, typer.Option(help="Forecast: .npy file of channel means.")
    ] = None,
    stds: Annotated[Path | None, typer.Option(help="Forecast: .npy of channel deviations.")] = None,
    section: Section = None,
    grid: Grid = None,
    backbone: Backbone = None,
    dialect: Annotated[
        str | None, typer.Option("--from", help="Dialect of the checkpoint [by its keys].")
    ] = None,
    tokenizer: Tokenizer = None,
    half: Annotated[bool, typer.Option(help="Store the weights as float16.")] = False,
    set_: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Make a bundle from a published model, for `predict`, `generate`, `serve` and the others."""
    from cupola.bundles.downloads import find_checkpoint
    from cupola.errors import InputError
    from cupola.registry import load_plugins

    load_plugins(plugin or [])
    if out is None and not config.is_dir():
        raise InputError(f"{config}: name its checkpoint and the folder to write")
    weights = config if out is None else find_checkpoint(checkpoint)
    out = out or Path(checkpoint)  # a folder holds its weights
    options = {
        "means": means,
        "stds": stds,
        "tokenizer": tokenizer,
        "grid": grid,
        "backbone": backbone,
        "section": section,
    }
    about = {**describe(config, name or out.name, set_ or [], options), "license": license}
    write(out, about, config, weights, options, dialect, half)


def write(
    out: Path,
    about: Mapping[str, Any],
    config: Path,
    checkpoint: Path,
    options: Mapping[str, Any],
    dialect: str | None,
    half: bool,
) -> None:
    """Build the model of a bundle's config.json with its weights, and write the folder."""
    import torch

    from cupola.bundles import write_bundle
    from cupola.runtime import tasks
    from cupola.runtime.building import build, warn_of_old_boxes
    from cupola.weights.own_files import OWN

    files = tasks.find(about["task"]).bundle_files(checkpoint, {**options, "model": about["model"]})
    warned = warn_of_old_boxes(about["model"], checkpoint, dialect)
    if options["backbone"] is None:
        model = build(about["model"], weights=checkpoint, dialect=dialect)
    else:
        model = build(about["model"])
        load_both(model, checkpoint, options["backbone"], dialect)
    card = card_of(about, config, checkpoint)
    dtype = torch.float16 if half else torch.float32
    written = write_bundle(out, about, model.state_dict(), card, dtype, {} if warned else OWN)
    model.build_record.save(written.path / "build_record.json")
    for file, content in files.items():
        (written.path / file).write_bytes(content)
    print(f"{written.path}: {about['task']}, {sum(p.numel() for p in model.parameters())} weights")


def card_of(about: Mapping[str, Any], config: Path, checkpoint: Path) -> str:
    """The card of a bundle whose config.json is `about`."""
    from cupola.bundles.writing import sha256

    digest = sha256(checkpoint) if checkpoint.is_file() else "not computed for a folder"
    return CARD.format(
        name=about["name"],
        config=config.name,
        checkpoint=checkpoint.name,
        digest=digest,
        license=about["license"],
    )


def describe(config: Path, name: str, overrides: list[str], options: dict[str, Any]) -> Any:
    """config.json of the bundle, from a training config or from a folder of transformers."""
    from cupola.bundles import Bundle
    from cupola.config import Config
    from cupola.models.afno.published import is_published, published_config
    from cupola.runtime.published import bundle_config

    if config.is_dir():
        about = Config({**Bundle.load(config).config, "name": name})
        return about.override(overrides).to_dict()
    loaded = Config.load(config)
    if options["section"] is not None or is_published(loaded):
        loaded = Config(published_config(loaded.to_dict(), options["section"], str(config)), config)
    cfg = loaded.override(overrides).to_dict()
    if options["backbone"] is not None:
        cfg["model"] = with_wind(cfg.get("model", {}))
    if options["grid"] is not None:
        options = {**options, "grid": grid_of(options["grid"], cfg.get("model", {}))}
    return bundle_config(cfg, name, **options)


def grid_of(path: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """The coordinates of a file, from north to south; the first rows that the model has."""
    from cupola.data.fields import open_fields
    from cupola.runtime.tasks.forecast_bundle import model_size

    size = model_size(model) if "type" in model else None
    return open_fields(path).grid.usual(None if size is None else size[0]).to_config()


def with_wind(model: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a PrecipNet with the model that advances the state, of its backbone's form."""
    from cupola.errors import ConfigError

    if model.get("type") != "PrecipNet":
        raise ConfigError(f"--backbone is for PrecipNet, and the model is {model.get('type')}")
    backbone = dict(model["backbone"])
    wind = model.get("wind") or {**backbone, "out_chans": backbone.get("in_chans", 20)}
    return {**model, "wind": wind}


def load_both(model: Any, checkpoint: Path, backbone: Path, dialect: str | None) -> None:
    """Loads a PrecipNet's own weights, and those of its wind model."""
    from cupola.errors import CheckpointError
    from cupola.weights import load_weights

    report = load_weights(model, checkpoint, dialect, strict=False)
    missing = [name for name in report.missing if not name.startswith("wind.")]
    if missing or report.unexpected:
        raise CheckpointError(
            f"{checkpoint}: not this PrecipNet's weights; missing {missing[:3]}, not in the model"
            f" {report.unexpected[:3]}"
        )
    load_weights(model.wind, backbone)
