"""Runs inside nuscenes-devkit's environment: computes official scores of boxes in a JSON file.

    python -I nuscenes_runner.py boxes.json scores.json

The devkit needs an older numpy than Cupola, so nothing of Cupola is imported here.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "mATE": "trans_err",
    "mASE": "scale_err",
    "mAOE": "orient_err",
    "mAVE": "vel_err",
    "mAAE": "attr_err",
}
UNDEFINED = {
    "traffic_cone": ("attr_err", "vel_err", "orient_err"),
    "barrier": ("attr_err", "vel_err"),
}


def eval_boxes(rows: list[dict[str, Any]], ranges: dict[str, float]) -> Any:
    """The devkit's boxes by sample, those in range; a yaw becomes a quaternion about z."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    made = EvalBoxes()
    for row in rows:
        length, width, height = row["size"]
        box = DetectionBox(
            sample_token=row["sample"],
            translation=(*row["center"], 0.0),
            size=(width, length, height),
            rotation=(math.cos(row["yaw"] / 2), 0.0, 0.0, math.sin(row["yaw"] / 2)),
            velocity=tuple(row["velocity"]),
            ego_translation=(*row["center"], 0.0),
            detection_name=row["name"],
            detection_score=row["score"],
            attribute_name=row["attribute"],
        )
        near = math.hypot(*row["center"]) < ranges[row["name"]]
        made.add_boxes(row["sample"], [box] if near else [])
    return made


def main(source: str, target: str) -> None:
    """Computes the scores of detection_cvpr_2019 for the classes in the file."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.utils import center_distance
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.data_classes import DetectionMetrics

    content = json.loads(Path(source).read_text())
    config = config_factory("detection_cvpr_2019")
    config.class_names = content["names"]
    truth = eval_boxes(content["truth"], config.class_range)
    found = eval_boxes(content["found"], config.class_range)
    metrics = DetectionMetrics(config)
    for name in content["names"]:
        for limit in config.dist_ths:
            data = accumulate(truth, found, name, center_distance, limit)
            precision = calc_ap(data, config.min_recall, config.min_precision)
            metrics.add_label_ap(name, limit, precision)
            if limit != config.dist_th_tp:
                continue
            for error in NAMES.values():
                skip = error in UNDEFINED.get(name, ())
                value = float("nan") if skip else calc_tp(data, config.min_recall, error)
                metrics.add_label_tp(name, error, value)
    scores = {"mAP": metrics.mean_ap, "NDS": metrics.nd_score}
    scores.update({short: metrics.tp_errors[error] for short, error in NAMES.items()})
    scores.update({f"AP/{name}": value for name, value in metrics.mean_dist_aps.items()})
    Path(target).write_text(json.dumps({name: float(value) for name, value in scores.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
