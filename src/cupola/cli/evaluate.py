"""`cupola evaluate BUNDLE --data DIR`: COCO AP of a detector."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle, or a bundle's folder.")],
    data: Annotated[Path, typer.Option(help="A COCO folder.")],
    annotations: Annotated[str, typer.Option(help="The COCO file in it.")] = "instances.json",
    images: Annotated[str, typer.Option(help="The folder of pictures in it.")] = "images",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measures a detection bundle on a COCO dataset by pycocotools."""
    from cupola.runtime.predictor import Predictor

    scores = evaluate_detector(Predictor.load(bundle), data, annotations, images)
    if as_json:
        import json

        print(json.dumps(scores))
    else:
        for name, value in scores.items():
            print(f"{name:10} {value:.3f}")


def evaluate_detector(
    predictor: Any, data: Path, annotations: str = "instances.json", images: str = "images"
) -> dict[str, float]:
    """COCO AP of a predictor, which reads and resizes every picture as in use.

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
