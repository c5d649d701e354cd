"""Evaluates a model on a dataset."""

from collections.abc import Iterable
from typing import Any

import torch

from cupola.errors import BuildError
from cupola.registry import METRICS
from cupola.train.steps import to_device


def build_metric(cfg: Any) -> Any:
    """The metric of an evaluator's config, or of a list with one, as MMEngine allows."""
    if isinstance(cfg, list | tuple):
        if len(cfg) != 1:
            raise BuildError(f"evaluator: expected one metric, got a list of {len(cfg)}")
        cfg = cfg[0]
    return METRICS.build(cfg)


@torch.no_grad()
def evaluate(
    model: Any, batches: Iterable[dict[str, Any]], metric: Any, device: torch.device
) -> dict[str, float]:
    """Predicts all batches in eval mode and returns the values of `metric`."""
    was_training = model.training
    model.eval()
    metric.reset()
    if hasattr(metric, "use"):
        metric.use(getattr(batches, "dataset", None))
    try:
        for batch in batches:
            metric.update(batch, model.predict(to_device(batch, device)))
    finally:
        model.train(was_training)
    values: dict[str, float] = metric.compute()
    return values
