"""`cupola evaluate BUNDLE`: the figures of a bundle's card again, or metrics on other data."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import (
    AsJson,
    BundleOrConfig,
    Checkpoint,
    Device,
    Offline,
    Optimization,
    Overrides,
    Proposals,
    Revision,
    Tta,
)

if TYPE_CHECKING:
    from cupola.bundles import Bundle

app = typer.Typer(add_completion=False)

Format = Annotated[
    str | None,
    typer.Option(
        help="coco, lvis, panoptic, voc, widerface, openimages or crowdhuman [by its files]."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="nuScenes: mini_val, mini_train, val, train or test [by version]."),
]


@app.command()
def evaluate(
    bundle: BundleOrConfig,
    weights: Checkpoint = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder of data; for a camera model nuScenes' root."),
    ] = None,
    format: Format = None,
    annotations: Annotated[
        str | None, typer.Option(help="The file of annotations in it [by format: instances.json].")
    ] = None,
    images: Annotated[
        str, typer.Option(help="The folder of images in it [by format: images, val2017, ...].")
    ] = "",
    classes: Annotated[str | None, typer.Option(help="Open Images: the file of classes.")] = None,
    hierarchy: Annotated[str | None, typer.Option(help="Open Images: its hierarchy.")] = None,
    image_labels: Annotated[
        str | None, typer.Option(help="Open Images: the labels of whole images.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="nuScenes: the folder of tables [the only one].")
    ] = None,
    split: Split = None,
    results: Annotated[
        Path, typer.Option(help="nuScenes: the file of detections to write, for the devkit.")
    ] = Path("results_nusc.json"),
    proposals: Proposals = None,
    set_: Overrides = None,
    as_json: AsJson = False,
    revision: Revision = None,
    offline: Offline = False,
    device: Device = None,
    tta: Tta = False,
    optimization: Optimization = "auto",
) -> None:
    """Measure a bundle, or a config with its checkpoint, on its own test data or a dataset."""
    from cupola.runtime.load import is_config, load_predictor, open_bundle
    from cupola.runtime.optimize.memory import keep_freed_memory

    overrides = set_ or []
    opened = open_bundle(bundle, weights, revision, offline, overrides if is_config(bundle) else ())
    cfg = changed(bundle, opened, overrides, data)
    keep_freed_memory()
    files = {
        "format": format,
        "annotations": annotations,
        "images": images,
        "classes": classes,
        "hierarchy": hierarchy,
        "image_labels": image_labels,
    }
    nuscenes: dict[str, Any] = {"version": version, "split": split}
    refuse_others(opened.task, data, files, nuscenes)
    predictor = load_predictor(opened, device=device, tta=tta, optimization=optimization)
    if proposals is not None:
        from cupola.cli.predict import with_proposals

        predictor = with_proposals(predictor, proposals)
    nuscenes["results"] = results
    print_scores(measure(cfg, opened, predictor, data, files, nuscenes), as_json, results)


def use_graph(predictor: Any) -> None:
    """Runs samples one by one where a graph of the example's sizes, for one sample, is measured."""
    if is_of_one_size(predictor):
        predictor.max_batch = 1


def is_of_one_size(predictor: Any) -> bool:
    """Whether a graph that takes a single size executes the network."""
    graph = graph_in(predictor)
    return graph is not None and not graph.dynamic


def graph_in(predictor: Any) -> Any:
    """The graph that executes the network of a predictor; None if there is none."""
    if getattr(predictor, "model", None) is None:
        return None
    from cupola.runtime.optimize.graphs import graph_of

    return graph_of(predictor.model)


def report_graph(predictor: Any) -> None:
    """Prints how many calls the chosen graph did not fit, as the scores are then not its own."""
    graph = graph_in(predictor)
    if graph is not None and graph.passed_on:
        print(
            f"{predictor.name}: {graph.passed_on} of {graph.passed_on + graph.answered} calls of "
            "the network had other sizes than its graph takes; the loaded model computed them",
            file=sys.stderr,
        )


def changed(
    source: str, bundle: "Bundle", overrides: Sequence[str], data: Path | None
) -> dict[str, Any]:
    """The config whose data is measured on, changed by --set; empty for a bundle with --data.

    BundleError for --set that would have no effect.
    """
    from cupola.config import Config
    from cupola.errors import BundleError
    from cupola.runtime.load import is_config

    if is_config(source):
        return Config.load(source).override(overrides).to_dict()
    model = [each for each in overrides if each.startswith("model.")]
    if model or (overrides and data is not None):
        where = "its model is made already" if model else "--data names its own data"
        raise BundleError(f"--set {(model or overrides)[0]}: has no effect for a bundle: {where}")
    return Config(training_config(bundle)).override(overrides).to_dict() if data is None else {}


def measure(
    cfg: Mapping[str, Any],
    bundle: "Bundle",
    predictor: Any,
    data: Path | None,
    files: Mapping[str, Any],
    nuscenes: Mapping[str, Any],
) -> Mapping[str, float]:
    """The metrics on a folder of data, or without one on the data of the config `cfg`."""
    use_graph(predictor)
    scores = scores_on(cfg, bundle, predictor, data, files, nuscenes)
    report_graph(predictor)
    return scores


def scores_on(
    cfg: Mapping[str, Any],
    bundle: "Bundle",
    predictor: Any,
    data: Path | None,
    files: Mapping[str, Any],
    nuscenes: Mapping[str, Any],
) -> Mapping[str, float]:
    """The metrics by the bundle's task, with the predictor as it is."""
    from cupola.runtime import tasks

    if data is None:
        return evaluate_as_trained(predictor, cfg)
    if bundle.task == "forecast":
        from cupola.cli.forecast_evaluation import evaluate_forecasts

        return evaluate_forecasts(predictor, data)
    if bundle.task == "detection3d":
        from cupola.cli.nuscenes_evaluation import evaluate_nuscenes

        return evaluate_nuscenes(predictor, data, **nuscenes)
    options = {**files, "published": evaluator_of(cfg)}
    return tasks.find(bundle.task).evaluate(predictor, data, options)


def print_scores(scores: Mapping[str, float], as_json: bool, results: Path) -> None:
    """Prints the metrics, a line each or as JSON; where there are none, where detections are."""
    if as_json:
        import json

        print(json.dumps(scores))
        return
    if not scores:
        print(f"no annotations to compare with; the detections are in {results}")
    for name, value in scores.items():
        print(f"{name:{max(map(len, scores))}} {value:.4g}")


def refuse_others(
    task: str, data: Path | None, files: Mapping[str, Any], nuscenes: Mapping[str, Any]
) -> None:
    """InputError for options of other tasks, before a model is loaded."""
    if data is None:
        refuse({**files, **nuscenes}, "an evaluation without --data")
    elif task == "detection3d":
        refuse(files, "a camera model")
    elif task == "forecast":
        refuse({**files, **nuscenes}, "a forecast model")
    else:
        refuse(nuscenes, "this model")


def refuse(options: Mapping[str, Any], model: str) -> None:
    """InputError for options that were given and have no effect for a model."""
    from cupola.errors import InputError

    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise InputError(f"{', '.join(given)} has no effect for {model}")


def evaluator_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The first evaluator of a config's test data, else validation data; empty if none."""
    from cupola.train.version2 import to_version_3

    if not cfg:
        return {}
    cfg = to_version_3(cfg)
    found = cfg.get("test_evaluator") or cfg.get("val_evaluator")
    found = found[0] if isinstance(found, list | tuple) and found else found
    return dict(found) if isinstance(found, Mapping) else {}


def with_published_proposals(predictor: Any, dataset: Any) -> Any:
    """The predictor with the `proposal_file` of a dataset's config, if it needs one."""
    file = dataset.get("proposal_file") if isinstance(dataset, Mapping) else None
    if not file or not hasattr(predictor, "proposals") or predictor.proposals is not None:
        return predictor
    from cupola.cli.predict import with_proposals

    return with_proposals(predictor, Path(dataset.get("data_root") or "") / file)


def training_config(bundle: "Bundle") -> dict[str, Any]:
    """The config that a bundle was trained with; BundleError without training.json."""
    from cupola.errors import BundleError
    from cupola.files import read_settings

    path = bundle.path / "training.json"
    if not path.is_file():
        raise BundleError(f"{path}: missing; name the data to measure on with --data FOLDER")
    content = read_settings(path, BundleError)
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected an object, found a {type(content).__name__}")
    return content


def evaluate_as_trained(predictor: Any, cfg: Mapping[str, Any]) -> dict[str, float]:
    """The metrics on the test data (else validation data) of a training config.

    A detector reads the images as in use: as the test pipeline of the config resizes and pads them.
    ConfigError if it names none; DataError where the data is missing.
    """
    from cupola.config.old_sections import nuscenes_sections
    from cupola.errors import ConfigError
    from cupola.registry import DATASETS, default_scope
    from cupola.runtime.evaluation import as_they_are, evaluate_images, reads_images
    from cupola.train.evaluation import build_metric
    from cupola.train.evaluation import evaluate as evaluate_batches
    from cupola.train.loading import evaluation_loader, in_test_mode
    from cupola.train.pixels import with_pixels
    from cupola.train.version2 import to_version_3

    cfg = to_version_3(nuscenes_sections(cfg))
    data = "test_dataloader" if cfg.get("test_dataloader") else "val_dataloader"
    evaluator = cfg.get("test_evaluator") or cfg.get("val_evaluator")
    if not cfg.get(data) or not evaluator:
        raise ConfigError(
            "the config has no test_dataloader with a test_evaluator (MMDetection 3.x), nor "
            "val_...; name the data to measure on with --data FOLDER"
        )
    with default_scope(cfg.get("default_scope")):
        metric = build_metric(evaluator)
        if predictor.task == "detection":
            predictor = with_published_proposals(predictor, cfg[data]["dataset"])
            plain = in_test_mode(as_they_are(cfg[data]["dataset"]), evaluator)
            dataset = DATASETS.build(plain)
            if reads_images(dataset):
                return evaluate_images(predictor, dataset, metric)
        loader = with_pixels(cfg)[data]
        if is_of_one_size(predictor):
            loader = {**loader, "batch_size": 1}
        batches = evaluation_loader(loader, evaluator=evaluator)
        return evaluate_batches(predictor.model, batches, metric, predictor.device)
