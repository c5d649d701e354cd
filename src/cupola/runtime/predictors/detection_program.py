"""What an export of a detector of images contains."""

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.runtime.export import Program
from cupola.runtime.predictors.detection import DetectionPredictor

AXES = ("batch", "height", "width")  # of a padding mask
LEAST = (96, 160)  # of a traced example, so that no map of stride 64 has a side of one cell


class Exported(torch.nn.Module):
    """pixels [B, 3, H, W], padding_mask [B, H, W] -> logits [B, Q, C] and boxes [B, Q, 4].

    They are those of the last layer. For models with masks the second result is their logits
    [B, Q, H / 4, W / 4]; dense detectors give the scores and boxes (in pixels) of all cells. Models
    with `exported` choose the results themselves.
    """

    def __init__(self, model: torch.nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, pixels: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.kind == "own":
            found: tuple[Tensor, ...] = self.model.exported(pixels, padding_mask)  # type: ignore[operator]
            return found
        if self.kind == "dense":
            scores, boxes = self.model.scored_boxes(pixels, padding_mask)  # type: ignore[operator]
            return scores, boxes
        output = self.model(pixels, padding_mask, True)
        return output.logits[-1], output.masks[-1] if self.kind == "masks" else output.boxes[-1]


RESULTS = {
    "dense": ("scores", "boxes"),
    "masks": ("logits", "masks"),
    "queries": ("logits", "boxes"),
}


def kind_of(predictor: DetectionPredictor) -> str:
    """What an export of a predictor's model gives: a key of RESULTS, or "own"."""
    if getattr(predictor.model, "exported_names", ()):
        return "own"
    if hasattr(predictor.model, "scored_boxes"):
        return "dense"
    return "masks" if predictor.masks else "queries"


def program(predictor: DetectionPredictor, size: tuple[int, int] | None) -> Program:
    """What an export writes; `size` is (height, width), by default the largest it resizes to.

    The axes that a model names in `fixed_axes` keep that size.
    """
    if hasattr(predictor.model, "text_search"):
        raise InputError(f"{predictor.name}: a detector that searches for a text has no export")
    kind = kind_of(predictor)
    short = predictor.short or predictor.long or 800
    height, width = size or predictor.exact or (short, predictor.long or short)
    fixed = getattr(predictor.model, "fixed_axes", ())
    axes = {axis: name for axis, name in enumerate(AXES) if name not in fixed}
    batch = 2 if "batch" in axes.values() else 1
    static = _inputs(1, height, width)
    return Program(
        Exported(nn.to_torch(predictor.model), kind),
        _inputs(batch, max(height, LEAST[0]), max(width, LEAST[1])) if axes else static,
        ("pixels", "padding_mask"),
        predictor.model.exported_names if kind == "own" else RESULTS[kind],
        ({axis + (axis > 0): name for axis, name in axes.items()}, axes) if axes else (),
        static,
    )


def _inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    return torch.zeros(batch, 3, height, width), mask
