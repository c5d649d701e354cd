"""Group DETR: additional groups of queries are trained, and not used in eval mode."""

from typing import Any

import torch

from cupola.config import Config
from cupola.data.digits import DigitsInPhotos
from cupola.registry import build
from cupola.train.recipe import find_config


def detr(groups: int) -> Any:
    cfg = Config.load(find_config("detr-digits")).to_dict()["model"]
    torch.manual_seed(0)
    return build({**cfg, "training_groups": groups})


def batch() -> dict[str, Any]:
    data = DigitsInPhotos("val", 7, size=64)
    return data.collate([data[index] for index in range(3)])


def test_the_loss_is_the_mean_over_groups() -> None:
    grouped, alone = detr(3).train(), detr(1).train()
    shared = {k: v for k, v in grouped.state_dict().items() if not k.startswith("further")}
    further = grouped.further_query_embedding.weight.detach().split(25)
    parts = []
    for queries in (grouped.query_embedding.weight.detach(), *further):
        alone.load_state_dict({**shared, "query_embedding.weight": queries})
        parts.append(alone.loss(batch()))
    for name, value in grouped.loss(batch()).items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-5, msg=name)


def test_additional_groups_are_not_used_in_eval_mode() -> None:
    grouped, alone = detr(3).eval(), detr(1).eval()
    alone.load_state_dict({name: grouped.state_dict()[name] for name in alone.state_dict()})
    pixels = batch()["pixels"]
    with torch.no_grad():
        found, expected = grouped(pixels), alone(pixels)
    assert found.logits.shape == (3, 3, 25, 11)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.boxes, expected.boxes)
