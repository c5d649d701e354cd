"""How good the velocities of a bundle trained on driving-streets are, on its own test drives.

    python bench/streets_velocity.py [BUNDLE] [--cache FOLDER]

Prints the mean speed of the boxes, the metrics of the bundle, and the metrics of the same
detections with every velocity set to zero. Rendering the drives takes minutes.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

import cupola
from cupola.bundles import Bundle
from cupola.cli.evaluate import training_config
from cupola.metrics.nuscenes import NuScenesMetric
from cupola.train.evaluation import build_metric, evaluate
from cupola.train.loading import evaluation_loader

WITHOUT_VELOCITY = ("traffic_cone", "barrier")  # mAVE leaves them out


class BothMetrics:
    """The metric of the detections, that of the same boxes at rest, and the boxes' speeds."""

    def __init__(self, moving: NuScenesMetric, at_rest: NuScenesMetric) -> None:
        self.moving, self.at_rest = moving, at_rest
        self.speeds: list[torch.Tensor] = []
        self.names: Sequence[str] = ()

    def reset(self) -> None:
        self.moving.reset()
        self.at_rest.reset()

    def update(self, batch: Mapping[str, Any], found: Sequence[Any]) -> None:
        self.moving.update(batch, found)
        still = [replace(each, boxes=each.boxes.clone()) for each in found]
        for each in still:
            each.boxes[:, 7:9] = 0
        self.at_rest.update(batch, still)
        for target in batch["targets"]:
            counted = torch.tensor(
                [self.names[k] not in WITHOUT_VELOCITY for k in target["labels"]]
            )
            self.speeds.append(target["boxes"][counted.bool(), 7:9].norm(dim=1).cpu())

    def compute(self) -> dict[str, float]:
        """The metrics of the detections."""
        return self.moving.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="rep-detr3d-streets")
    parser.add_argument("--cache", help="a folder for the rendered drives")
    args = parser.parse_args()
    predictor: Any = cupola.Predictor.load(args.bundle)
    cfg = training_config(Bundle.load(args.bundle))
    loader = cfg["test_dataloader"]
    loader["dataset"]["cache"] = args.cache
    both = BothMetrics(build_metric(cfg["val_evaluator"]), build_metric(cfg["val_evaluator"]))
    both.names = cfg["class_names"]
    found = evaluate(predictor.model, evaluation_loader(loader), both, predictor.device)
    speeds = torch.cat(both.speeds)
    moving = speeds[speeds > 0.5]
    print(f"{len(speeds)} boxes, mean speed {speeds.mean():.2f} m/s")
    print(f"{len(moving)} of them faster than 0.5 m/s, mean speed {moving.mean():.2f} m/s")
    for name, scores in ((args.bundle, found), ("at rest", both.at_rest.compute())):
        print(f"{name:20}" + "".join(f"  {key} {value:.3f}" for key, value in scores.items()))


if __name__ == "__main__":
    main()
