"""What a detector saw in an image: attention maps and the queries that found something."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupola.errors import InputError

LONGEST = 640  # pixels of the image on the page


def view_of_image(
    model: Any,
    pixels: np.ndarray[Any, Any],
    labels: tuple[str, ...] = (),
    top: int = 8,
    inputs: Tensor | None = None,
) -> dict[str, Any]:
    """The image as a data address, and the `top` queries with class, score, box and attention.

    pixels [H, W, 3] uint8, RGB. The model's `inspect(pixels [1, 3, H, W])` returns scores
    [Q, C] in 0..1, boxes [Q, 4] (cxcywh in 0..1) and attention [Q, h, w], or for deformable
    attention references [D, Q, 4], locations [D, Q, M, L, P, 2] and weights [D, Q, M, L, P] of D
    layers. `inputs` [1, 3, h, w] is
    the image as a predictor resizes and normalizes it; without it the model gets the image at its
    size on the page. InputError for a model without `inspect`.
    """
    if not callable(getattr(model, "inspect", None)):
        raise InputError(f"{type(model).__name__} has no inspect(), so there is nothing to show")
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST))
    if inputs is None:
        shown = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
        inputs = _normalize(model, shown)
    seen = model.inspect(inputs)
    scores, classes = seen["scores"].max(-1)
    best = scores.argsort(descending=True)[:top].tolist()
    queries = [
        {
            "query": index,
            "label": label_of(labels, int(classes[index])),
            "score": round(float(scores[index]), 4),
            "box": [round(side, 4) for side in _corners(seen["boxes"][index])],
            **_looked_at(seen, index),
        }
        for index in best
    ]
    view: dict[str, Any] = {"image": data_address(image), "queries": queries}
    if "levels" in seen:
        view |= {"kind": "sampling", "levels": seen["levels"].tolist()}
    return view


def _looked_at(seen: dict[str, Tensor], index: int) -> dict[str, Any]:
    """The attention map of a query, or per layer its reference box and the points it sampled.

    A point is (x, y, level, weight); x, y in 0..1 of the image.
    """
    if "attention" in seen:
        rows = seen["attention"][index].tolist()
        return {"attention": [[round(v, 5) for v in row] for row in rows]}
    layers = []
    for box, places, weights in zip(
        seen["references"][:, index],
        seen["locations"][:, index],
        seen["weights"][:, index],
        strict=True,
    ):
        levels = torch.arange(weights.shape[1])[:, None].expand_as(weights)  # [M, L, P]
        points = torch.cat((places, levels[..., None], weights[..., None]), -1).flatten(0, 2)
        layers.append(
            {
                "reference": [round(side, 4) for side in _corners(box)],
                "points": [[round(v, 4) for v in point] for point in points.tolist()],
            }
        )
    return {"layers": layers}


def _normalize(model: Any, pixels: Tensor) -> Tensor:
    """[1, 3, H, W], 0..255 -> normalized as in the model's preprocessor, else divided by 255."""
    normalize = getattr(getattr(model, "data_preprocessor", None), "normalize", None)
    normalized: Tensor = pixels / 255 if normalize is None else normalize(pixels[0])[None]
    return normalized


def label_of(labels: tuple[str, ...], index: int) -> str:
    """The name of a class, or its number where there are no names."""
    return labels[index] if index < len(labels) else f"class {index}"


def _corners(box: Tensor) -> list[float]:
    cx, cy, w, h = box.tolist()
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def data_address(image: Image.Image) -> str:
    """The image as a `data:` address, JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
