"""`cupola evaluate BUNDLE`: the figures of a bundle's card again, or metrics on other data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cupola.cli.options import Offline, Revision

if TYPE_CHECKING:
    from cupola.bundles import Bundle

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, a folder, or hf://ORG/NAME.")],
    data: Annotated[Path | None, typer.Option(help="A dataset; for a detector, COCO's.")] = None,
    annotations: Annotated[str, typer.Option(help="The COCO file in it.")] = "instances.json",
    images: Annotated[
        str, typer.Option(help="The folder of images in it [images, or where the file is].")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Measure a bundle on the data of its training config, or on a dataset in a folder."""
    from cupola.bundles import Bundle
    from cupola.runtime import tasks
    from cupola.runtime.load import load_predictor

    opened = Bundle.load(bundle, revision, offline)
    predictor = load_predictor(opened)
    if data is None:
        scores = evaluate_as_trained(predictor, opened)
    else:
        options = {"annotations": annotations, "images": images}
        scores = tasks.find(opened.task).evaluate(predictor, data, options)
    if as_json:
        import json

        print(json.dumps(scores))
    else:
        width = max(map(len, scores))
        for name, value in scores.items():
            print(f"{name:{width}} {value:.4g}")


def evaluate_as_trained(predictor: Any, bundle: "Bundle") -> dict[str, float]:
    """The metrics on the bundle's test data (else validation data), as at the end of its training.

    BundleError without training.json; DataError where the data is missing.
    """
    import json

    import torch

    from cupola.errors import BundleError
    from cupola.train.evaluation import build_metric
    from cupola.train.evaluation import evaluate as measure
    from cupola.train.loading import evaluation_loader

    path = bundle.path / "training.json"
    if not path.is_file():
        raise BundleError(f"{path}: missing; name the data to measure on with --data FOLDER")
    cfg = json.loads(path.read_text(encoding="utf-8"))
    batches = evaluation_loader(cfg.get("test_dataloader", cfg["val_dataloader"]))
    metric = build_metric(cfg.get("test_evaluator") or cfg["val_evaluator"])
    return measure(predictor.model, batches, metric, torch.device("cpu"))
