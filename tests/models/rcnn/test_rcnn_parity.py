"""The R-CNN line at full size against mmdet 3.3.0, from the published configs."""

from typing import Any

import pytest
import torch

from zoo import ZooModel

NAMES = (
    "faster-rcnn_r50_fpn_1x_coco",
    "mask-rcnn_r50_fpn_1x_coco",
    "cascade-rcnn_r50_fpn_1x_coco",
    "cascade-mask-rcnn_r50_fpn_1x_coco",
    "htc_r50_fpn_1x_coco",
)

# Proposals differ by rounding, up to 0.01 pixels, as they do in double precision.
ROUNDING = 4e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_features_outputs_and_predictions(name: str) -> None:
    zoo = ZooModel(name)
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(model.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        output: Any = model(batch["pixels"], sizes=batch["image_sizes"])
        zoo.check_raw(output, "raw.0", ROUNDING)
        for index, found in enumerate(model.predict(batch)):
            zoo.check_predictions(index, found)
            zoo.check_mask_areas(index, found)
