"""What the queries of a multi-camera detector saw: where they looked, with which weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cupola.errors import InputError
from cupola.inspect.image_view import data_address, label_of
from cupola.runtime.io.drawing3d import box_lines, corners_in_view


def view_of_cameras(
    model: Any,
    images: NDArray[np.uint8],
    batch: Mapping[str, Any],
    labels: tuple[str, ...] = (),
    top: int = 8,
) -> dict[str, Any]:
    """The images as data addresses, and the `top` queries with all that they sampled.

    images [N, H, W, 3] uint8 RGB; `batch` holds the same as the model's forward takes them. The
    model's `inspect` returns what inspect_detr3d does, and that of BEVFormer its bird's-eye view.
    InputError for a model that takes one image only, or does not tell what it saw.
    """
    if not (hasattr(model, "pts_bbox_head") or hasattr(model, "stream_inputs")):
        raise InputError(f"{type(model).__name__} takes no sample folder; give it an image")
    if not hasattr(model, "inspect"):
        raise InputError(f"{type(model).__name__} does not tell where its queries looked")
    motion = {key: batch[key] for key in getattr(model, "stream_inputs", ()) if key in batch}
    seen = model.inspect(batch["pixels"], batch["lidar2img"], batch["image_size"], **motion)
    scores, classes = seen["logits"].sigmoid().max(-1)
    best = scores.argsort(descending=True)[:top].tolist()
    height, width = images.shape[1:3]
    matrices = batch["lidar2img"][0]
    names = [label_of(labels, each) for each in classes.tolist()]
    queries = [
        {
            "query": index,
            "label": names[index],
            "score": round(float(scores[index]), 4),
            "lines": _lines(seen["boxes"][index], matrices, (height, width)),
            "layers": [
                {
                    **_look(seen, layer, index),
                    "queries": _others(seen["among"][layer, index], names),
                }
                for layer in range(len(seen["uv"]))
            ],
        }
        for index in best
    ]
    return {
        "kind": "cameras",
        "images": [data_address(Image.fromarray(image)) for image in images],
        "levels": _cells(seen["levels"], batch["image_size"], (height, width)),
        "queries": queries,
        **({"bev": data_address(Image.fromarray(seen["bev"].numpy()))} if "bev" in seen else {}),
    }


def _look(seen: Mapping[str, Tensor], layer: int, query: int) -> dict[str, Any]:
    """What a query sampled in one layer: its point in space, and in each camera that sees it."""
    cameras = seen["visible"][layer, :, query].nonzero()[:, 0].tolist()
    return {
        "meters": [round(value, 2) for value in seen["references"][layer, query].tolist()],
        "cameras": [
            {
                "camera": camera,
                "uv": [round(value, 4) for value in seen["uv"][layer, camera, query].tolist()],
                "weights": [round(w, 4) for w in seen["weights"][layer, camera, query].tolist()],
            }
            for camera in cameras
        ],
    }


def _others(attention: Tensor, names: Sequence[str], most: int = 4) -> list[dict[str, Any]]:
    """The queries that a query attended to most; those of earlier frames have no number."""
    weights, best = attention.topk(min(most, len(attention)))
    return [
        {"query": key, "label": names[key], "weight": round(weight, 4)}
        if key < len(names)
        else {"query": None, "label": "remembered", "weight": round(weight, 4)}
        for key, weight in zip(best.tolist(), weights.tolist(), strict=True)
    ]


def _cells(levels: Tensor, padded: Any, size: tuple[int, int]) -> list[list[float]]:
    """Per level the (width, height) of one of its cells, in fractions of the shown images."""
    frame = torch.as_tensor(padded).flatten()[:2] / torch.tensor(size)  # without the padding
    return [[float(frame[1] / w), float(frame[0] / h)] for h, w in levels.tolist()]


def _lines(box: Tensor, matrices: Tensor, size: tuple[int, int]) -> list[list[list[float]]]:
    """Per camera the edges of a box in 0..1 of the image, each [u0, v0, u1, v1]."""
    scale = np.array([size[1], size[0]] * 2)
    return [
        [(np.ravel(line) / scale).round(4).tolist() for line in box_lines(points)]
        for points in (corners_in_view(box[None], matrix)[0] for matrix in matrices)
    ]
