"""Evaluates a model on a dataset."""

from collections.abc import Iterable
from typing import Any

import torch

from cupola.train.steps import to_device


@torch.no_grad()
def evaluate(
    model: Any, batches: Iterable[dict[str, Any]], metric: Any, device: torch.device
) -> dict[str, float]:
    """Predicts all batches in eval mode and returns the values of `metric`."""
    was_training = model.training
    model.eval()
    metric.reset()
    try:
        for batch in batches:
            metric.update(batch, model.predict(to_device(batch, device)))
    finally:
        model.train(was_training)
    values: dict[str, float] = metric.compute()
    return values
