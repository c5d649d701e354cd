"""Evaluates a model on a dataset."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cupola.errors import BuildError, DataError
from cupola.registry import METRICS
from cupola.train.steps import to_device


class Evaluators:
    """Several metrics as one. Values are named `prefix/name` where a config has a prefix."""

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        self._prefixes = [str(cfg.get("prefix") or "") for cfg in configs]
        bare = [{key: value for key, value in cfg.items() if key != "prefix"} for cfg in configs]
        self._metrics = [METRICS.build(cfg) for cfg in bare]
        kinds = Counter(zip(self._prefixes, map(type, self._metrics), strict=True))
        if twice := [kind.__name__ for (_, kind), count in kinds.items() if count > 1]:
            raise BuildError(f"evaluator: {twice[0]} twice; give each a prefix of its own")
        self.published_names: dict[str, str] = {}
        for prefix, metric in zip(self._prefixes, self._metrics, strict=True):
            for theirs, ours in getattr(metric, "published_names", {}).items():
                self.published_names.setdefault(theirs, _named(prefix, ours))

    def reset(self) -> None:
        """Discards all samples."""
        for metric in self._metrics:
            metric.reset()

    def use(self, dataset: Any) -> None:
        """Passes the dataset to the metrics that ask for it."""
        for metric in self._metrics:
            if hasattr(metric, "use"):
                metric.use(dataset)

    def update(self, batch: Mapping[str, Any], predictions: Sequence[Any]) -> None:
        """Adds a batch."""
        for metric in self._metrics:
            metric.update(batch, predictions)

    def compute(self) -> dict[str, float]:
        """The values of all metrics. BuildError if two of them have the same name."""
        values: dict[str, float] = {}
        for prefix, metric in zip(self._prefixes, self._metrics, strict=True):
            own = {_named(prefix, name): value for name, value in metric.compute().items()}
            if both := sorted(own.keys() & values.keys()):
                raise BuildError(f"evaluator: two metrics are named {both[0]}; give one a prefix")
            values |= own
        return values


class StreamPredictions:
    """Predicts batches of frames, and keeps the states of the streams of the last batch."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._names: list[str] = []
        self._states: Any = None

    def __call__(self, batch: dict[str, Any]) -> list[Any]:
        """One prediction per frame; in batches without `streams` every frame is a first one."""
        if "streams" not in batch:
            found: list[Any] = self._model.predict(batch)
            return found
        state = self._started(batch["streams"], batch["prev_exists"].tolist())
        found, self._states = self._model.predict_frame(batch, state)
        self._names = batch["streams"]
        return found

    def _started(self, names: list[str], later: list[float]) -> Any:
        if not any(later):
            return self._model.initial_state(len(names))
        if not all(later) or set(names) - set(self._names):
            raise DataError(
                "a batch continues streams that the batch before does not have; give the dataset "
                "`sequences`, the indices of each stream in order"
            )
        rows = [self._names.index(name) for name in names]
        return type(self._states)(*(part[rows] for part in self._states))


def _in_images(found: Sequence[Any], batch: Mapping[str, Any]) -> Sequence[Any]:
    """Predictions in pixels of the images, which may lie inside larger ones ("shifts")."""
    if "shifts" not in batch:
        return found
    factors = zip(found, batch["shifts"], batch["scale_factors"], strict=True)
    return [
        replace(each, boxes=each.boxes - each.boxes.new_tensor([left / x, top / y] * 2))
        for each, (left, top), (x, y) in factors
    ]


def _named(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def build_metric(cfg: Any) -> Any:
    """The metric of an evaluator's config, or of a list of them, as MMEngine allows."""
    if isinstance(cfg, list | tuple):
        if not cfg or not all(isinstance(each, Mapping) for each in cfg):
            raise BuildError(f"evaluator: expected a metric or a list of metrics, got {cfg!r:.60}")
        if len(cfg) > 1:
            return Evaluators(cfg)
        cfg = cfg[0]
    return METRICS.build(cfg)


@torch.no_grad()
def evaluate(
    model: Any, batches: Iterable[dict[str, Any]], metric: Any, device: torch.device
) -> dict[str, float]:
    """Predicts all batches in eval mode and returns the values of `metric`.

    A model of streams keeps one state per name in the batches' `streams`.
    """
    predict = StreamPredictions(model) if getattr(model, "is_stream", False) else model.predict
    was_training = model.training
    model.eval()
    metric.reset()
    if hasattr(metric, "use"):
        metric.use(getattr(batches, "dataset", None))
    try:
        for batch in batches:
            metric.update(batch, _in_images(predict(to_device(batch, device)), batch))
    finally:
        model.train(was_training)
    values: dict[str, float] = metric.compute()
    return values
