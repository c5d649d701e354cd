"""What a detector saw in an image: attention maps and the queries that found something."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupola.errors import InputError
from cupola.inspect.attention_view import attention_layers, to_corners
from cupola.inspect.matching_view import Truth, matching_view

LONGEST = 640  # pixels of the image on the page
TOP = 8  # queries that are shown


def view_of_image(
    model: Any,
    pixels: np.ndarray[Any, Any],
    labels: tuple[str, ...] = (),
    top: int = TOP,
    inputs: Tensor | None = None,
    truth: Truth | None = None,
) -> dict[str, Any]:
    """The image as a data address, and the `top` queries with class, score, box and attention.

    pixels [H, W, 3] uint8, RGB. The model's `inspect(pixels [1, 3, H, W])` returns scores
    [Q, C] in 0..1, boxes [Q, 4] (cxcywh in 0..1) and attention [Q, h, w], and for every layer what
    inspect_detr says, or for deformable attention references [D, Q, 4], locations
    [D, Q, M, L, P, 2] and weights [D, Q, M, L, P] of D layers. `inputs` [1, 3, h, w] is the image
    as a predictor resizes and normalizes it; without it the model gets the image at its size on the
    page. `truth`, boxes (xyxy in pixels) and labels, adds the matching of a model that is trained
    by one. InputError for a model without `inspect`.
    """
    if not callable(getattr(model, "inspect", None)):
        raise InputError(f"{type(model).__name__} has no inspect(), so there is nothing to show")
    image = page_image(pixels)
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
            "box": _rounded(to_corners(seen["boxes"][index])),
            **_looked_at(seen, index),
        }
        for index in best
    ]
    view: dict[str, Any] = {"image": data_address(image), "queries": queries}
    if "levels" in seen:
        view |= {"kind": "sampling", "levels": seen["levels"].tolist()}
    if "cross" in seen:
        view |= {"attention": attention_layers(seen, best)}
    if truth is not None and "logits" in seen:
        size = (pixels.shape[0], pixels.shape[1])
        view |= {"matching": matching_view(model.bbox_head, seen, truth, size, labels)}
    return view


def view_of_boxes(
    pixels: np.ndarray[Any, Any], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The image and what a predictor found in it, for a model without queries to look into.

    Each of `found` has name, score and box, xyxy in pixels.
    """
    scale = pixels.shape[1], pixels.shape[0]
    boxes = [
        {
            "label": each["name"],
            "score": round(each["score"], 4),
            "box": [round(side / scale[i % 2], 4) for i, side in enumerate(each["box"])],
        }
        for each in found
    ]
    return {"kind": "boxes", "image": data_address(page_image(pixels)), "boxes": boxes}


def page_image(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """The image at the size that the page shows; [H, W, 3] uint8."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST))
    return image


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
                "reference": _rounded(to_corners(box)),
                "points": [_rounded(point) for point in points],
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


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def data_address(image: Image.Image) -> str:
    """The image as a `data:` address, JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
