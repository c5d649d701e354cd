"""Conditional DETR and DAB-DETR at full size against mmdet 3.3.0, from the published configs."""

from collections.abc import Iterator

import pytest
import torch

from zoo import ZooModel

NAMES = ("conditional-detr_r50_8xb2-50e_coco", "dab-detr_r50_8xb2-50e_coco")


@pytest.fixture(scope="module", params=NAMES)
def zoo(request: pytest.FixtureRequest) -> Iterator[ZooModel]:
    yield ZooModel(request.param)


def test_features_outputs_losses_and_predictions(zoo: ZooModel) -> None:
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        assert zoo.relative("feat.0", model.extract(batch["pixels"])) < 1e-4
        output = model(batch["pixels"], batch["padding_mask"])
        assert zoo.relative("raw.0", output.logits) < 1e-4
        assert zoo.relative("raw.1", output.boxes) < 1e-4
        zoo.check_losses(model.loss(batch))
        for index, found in enumerate(model.predict(batch)):
            zoo.check_predictions(index, found)
