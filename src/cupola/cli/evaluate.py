"""`cupola evaluate BUNDLE`: the figures of a bundle's card again, or a detector's COCO AP."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, or a bundle's folder.")],
    data: Annotated[Path | None, typer.Option(help="A COCO folder, for a detector.")] = None,
    annotations: Annotated[str, typer.Option(help="The COCO file in it.")] = "instances.json",
    images: Annotated[str, typer.Option(help="The folder of images in it.")] = "images",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measures a bundle on the data that its training config names for it, or on a COCO folder."""
    from cupola.runtime.predictor import Predictor

    predictor = Predictor.load(bundle)
    if data is None:
        scores = evaluate_as_trained(predictor, bundle)
    else:
        scores = evaluate_detector(predictor, data, annotations, images)
    if as_json:
        import json

        print(json.dumps(scores))
    else:
        width = max(map(len, scores))
        for name, value in scores.items():
            print(f"{name:{width}} {value:.4g}")


def evaluate_as_trained(predictor: Any, bundle: str) -> dict[str, float]:
    """The metrics of the bundle's own test data (else validation data), as at the run's end.

    BundleError without training.json; DataError where the data is not there.
    """
    import json

    import torch

    from cupola.bundles import Bundle
    from cupola.errors import BundleError
    from cupola.registry import METRICS
    from cupola.train.evaluation import evaluate as measure
    from cupola.train.loading import evaluation_loader

    path = Bundle.load(bundle).path / "training.json"
    if not path.is_file():
        raise BundleError(f"{path}: missing, so say on what to measure: --data FOLDER")
    cfg = json.loads(path.read_text(encoding="utf-8"))
    batches = evaluation_loader(cfg.get("test_dataloader", cfg["val_dataloader"]))
    metric = METRICS.build(cfg.get("test_evaluator", cfg["val_evaluator"]))
    return measure(predictor.model, batches, metric, torch.device("cpu"))


def evaluate_detector(
    predictor: Any, data: Path, annotations: str = "instances.json", images: str = "images"
) -> dict[str, float]:
    """COCO AP of a predictor, which reads and resizes every image as in use.

    The dataset's categories are matched with the predictor's labels by name.
    """
    from cupola.data.coco import CocoDataset
    from cupola.metrics.coco import CocoMetric

    dataset = CocoDataset(
        data_root=str(data),
        ann_file=annotations,
        data_prefix={"img": images},
        metainfo={"classes": predictor.labels} if predictor.labels else None,
        test_mode=True,
    )
    metric = CocoMetric()
    for index in range(len(dataset)):
        size, target = dataset.truth(index)
        found = predictor.run([predictor.sample(dataset.path(index))])
        batch = {"original_sizes": [size], "scale_factors": [(1.0, 1.0)], "targets": [target]}
        metric.update(batch, found)
    return metric.compute()
