"""FCOS at full size against mmdet 3.3.0, from the published config."""

import torch

from zoo import ZooModel


def test_features_outputs_losses_and_predictions() -> None:
    zoo = ZooModel("fcos_r50-caffe_fpn_gn-head_1x_coco")
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(model.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        output = model(batch["pixels"])
        for kind, levels in enumerate(output):
            for level, found in enumerate(levels):
                assert zoo.relative(f"raw.{kind}.{level}", found) < 1e-4
        zoo.check_losses(model.loss(batch))
        for index, found in enumerate(model.predict(batch)):
            zoo.check_predictions(index, found)
