"""Dense detectors at full size against mmdet 3.3.0, from the published configs."""

import pytest
import torch

from zoo import ZooModel

NAMES = (
    "retinanet_r50_fpn_1x_coco",
    "rpn_r50_fpn_1x_coco",
    "atss_r50_fpn_1x_coco",
    "gfl_r50_fpn_1x_coco",
    "vfnet_r50_fpn_1x_coco",
    "paa_r50_fpn_1x_coco",
    "tood_r50_fpn_1x_coco",
    "reppoints-moment_r50_fpn_1x_coco",
    "yolov3_d53_8xb8-320-273e_coco",
    "yolox_tiny_8xb8-300e_coco",
    "rtmdet_tiny_8xb32-300e_coco",
    "centernet_r18-dcnv2_8xb16-crop512-140e_coco",
)

DRAWS = ("rpn_r50_fpn_1x_coco",)  # its losses depend on random numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_features_outputs_losses_and_predictions(name: str) -> None:
    zoo = ZooModel(name)
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(model.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        zoo.check_raw(model(batch["pixels"]))
        if name not in DRAWS and any(key.startswith("loss.") for key in zoo.json["outputs"]):
            zoo.check_losses(model.loss(batch))
        for index, found in enumerate(model.predict(batch)):
            zoo.check_predictions(index, found)
