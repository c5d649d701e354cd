"""Detections in one image."""

import html
import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cupola.errors import InputError
from cupola.structures.drawing import draw_boxes
from cupola.structures.masks import encode_rle
from cupola.structures.panoptic import PanopticSegmentation

Pixels = np.ndarray[Any, Any]

OF_OBJECTS = ("boxes", "scores", "labels", "masks", "mask_scores")  # [N, ...]
SHOWN_SIDE = 800  # pixels of the longer side in a notebook
SHOWN_ROWS = 50  # of the table in a notebook


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    boxes: [N, 4], xyxy, pixels of the original image.
    scores: [N], 0..1. labels: [N], int64, index into `names`.
    image: reads the image, [H, W, 3] uint8 RGB; set by a predictor, so that `draw` needs none.
    masks: [N, H, W], bool, in pixels of the original image; None for models without masks. uint8
    with a `mask_thr_binary` below 0, which asks for masks before the threshold.
    panoptic: the segmentation of the whole image; None for models without.
    mask_scores: [N], the scores of the masks where they are not those of the boxes: of Mask Scoring
    R-CNN from a config of MMDetection 2.x.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = field(default=(), repr=False)
    image: Callable[[], Pixels] | None = field(default=None, repr=False, compare=False)
    masks: Tensor | None = field(default=None, repr=False)
    panoptic: PanopticSegmentation | None = field(default=None, repr=False)
    mask_scores: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least `threshold`."""
        return self.chosen(self.scores >= threshold)

    def chosen(self, keep: Tensor) -> "Detections":
        """Those that a mask [N] or indices choose."""
        return self._map(lambda values: values[keep])

    def cpu(self) -> "Detections":
        """The same with its tensors on the CPU."""
        return self._map(lambda values: values.cpu())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Detections":
        parts = {key: getattr(self, key) for key in OF_OBJECTS}
        changed: dict[str, Any] = {k: change(v) for k, v in parts.items() if v is not None}
        return replace(self, **changed)

    def name(self, label: int) -> str:
        """The class name of a label, or the number if it has no name."""
        return self.names[label] if 0 <= label < len(self.names) else str(label)

    def to_list(self) -> list[dict[str, Any]]:
        """One plain dict per box: name, label, score, box, and where there are masks COCO's RLE.

        With `mask_scores` also the mask_score.
        """
        rows = self._rows()
        if self.mask_scores is not None:
            for row, score in zip(rows, self.mask_scores.tolist(), strict=True):
                row["mask_score"] = score
        if self.masks is not None:
            for row, mask in zip(rows, self.masks, strict=True):
                row["mask"] = encode_rle(mask)
        return rows

    def _rows(self) -> list[dict[str, Any]]:
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {"name": self.name(label), "label": label, "score": score, "box": box}
            for box, score, label in rows
        ]

    def draw(self, image: Pixels | None = None) -> Image.Image:
        """The image with a colored box and a caption per detection.

        `image` is [H, W, 3] uint8 RGB, by default the one that was predicted; InputError without
        one.
        """
        if image is None and self.image is None:
            raise InputError("draw: these detections do not know their image; pass it, [H, W, 3]")
        pixels = image if image is not None else self.image() if self.image else None
        assert pixels is not None
        rows = self._rows()
        captions = [f"{row['name']} {row['score']:.2f}" for row in rows]
        boxes, labels = [row["box"] for row in rows], [row["label"] for row in rows]
        masks = None if self.masks is None else self.masks.cpu().numpy().astype(bool)
        return draw_boxes(pixels, boxes, labels, captions, masks)

    def to_coco(
        self, image_id: int, categories: Mapping[str, int] | Sequence[Any]
    ) -> list[dict[str, Any]]:
        """COCO's results, as pycocotools' `loadRes` takes them: bbox is [left, top, width, height].

        `categories` gives the category ids: the "categories" of a COCO file or a dict from class
        names, matched with `names`; or a list of ids by label. KeyError for a class without one.
        """
        ids = _category_ids(categories)
        results = []
        for row in self.to_list():
            left, top, right, bottom = row["box"]
            key = row["name"] if isinstance(ids, Mapping) else row["label"]
            result = {
                "image_id": image_id,
                "category_id": ids[key],
                "bbox": [left, top, right - left, bottom - top],
                "score": row["score"],
            }
            if "mask" in row:
                result["segmentation"] = row["mask"]
            if "mask_score" in row:
                result["mask_score"] = row["mask_score"]
            results.append(result)
        return results

    def to_torchvision(self) -> dict[str, Tensor]:
        """The dict of torchvision's detectors: boxes [N, 4] xyxy, labels [N], scores [N].

        Labels stay as they are: 0 is the first class, not the background. Masks, where there are
        any, are [N, 1, H, W] with values 0 and 1.
        """
        layout = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}
        if self.masks is not None:
            layout["masks"] = self.masks[:, None].to(self.scores.dtype)
        return layout

    def to_supervision(self) -> Any:
        """`supervision.Detections` with the class names in `data`; needs the package supervision.

        InputError if it is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("to_supervision: `pip install supervision` first") from None
        names = [self.name(label) for label in self.labels.tolist()]
        return supervision.Detections(
            xyxy=self.boxes.detach().cpu().float().numpy().reshape(-1, 4),
            confidence=self.scores.detach().cpu().float().numpy(),
            class_id=self.labels.detach().cpu().numpy().astype(int),
            data={"class_name": np.array(names, dtype=str)},
            mask=None if self.masks is None else self.masks.detach().cpu().numpy(),
        )

    def _repr_png_(self) -> bytes | None:
        """The drawing, for notebooks; None without an image."""
        if self.image is None:
            return None
        drawn, stream = self.draw(), io.BytesIO()
        drawn.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        drawn.save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str:
        """The drawing above a table of classes, scores and boxes, for notebooks."""
        png = self._repr_png_()
        image = f'<img src="data:image/png;base64,{b64encode(png).decode()}">' if png else ""
        rows = "".join(
            f"<tr><td>{html.escape(row['name'])}</td><td>{row['score']:.3f}</td>"
            + "".join(f"<td>{side:.0f}</td>" for side in row["box"])
            + "</tr>"
            for row in self.to_list()[:SHOWN_ROWS]
        )
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        more = len(self) - SHOWN_ROWS
        rest = f"<p>and {more} more</p>" if more > 0 else ""
        return f"<div>{image}<table><tr>{head}</tr>{rows}</table>{rest}</div>"


COLUMNS = ("class", "score", "left", "top", "right", "bottom")


def _category_ids(categories: Mapping[str, int] | Sequence[Any]) -> Mapping[str, int] | list[int]:
    if isinstance(categories, Mapping):
        return categories
    if categories and isinstance(categories[0], Mapping):
        return {entry["name"]: entry["id"] for entry in categories}
    return list(categories)
