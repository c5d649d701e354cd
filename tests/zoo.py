"""Published detectors of mmdet 3.3.0 against Cupola's: goldens in `goldens/zoo`, see its README."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from cupola.registry import build
from cupola.runtime.building import without_pretrained
from cupola.structures import boxes as box_ops
from goldens import seeded

FOLDER = Path(__file__).parent / "goldens" / "zoo"


class ZooModel:
    """One golden, the model of its config with the golden's weights, and its batch."""

    def __init__(self, name: str) -> None:
        self.json: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        self.tensors = load_file(FOLDER / f"{name}.safetensors")
        self.prefix: str = self.json["seed_prefix"]

    @cached_property
    def model(self) -> Any:
        """In eval mode; entries that are not by formula stay as built."""
        model = build(without_pretrained(self.json["model"]))
        own = model.state_dict()
        keys = [(key, tuple(shape)) for key, shape, *_ in self.json["weights"]]
        assert [(key, tuple(value.shape)) for key, value in own.items()] == keys
        made = {
            key: torch.from_numpy(np.asarray(seeded.seeded_weight(key, shape, self.prefix, dtype)))
            for key, shape, dtype, how in self.json["weights"]
            if how == "formula"
        }
        model.load_state_dict({**own, **made})
        return model.eval()

    @cached_property
    def batch(self) -> dict[str, Any]:
        """The images, padded with zeros, and five boxes in the first image, none in the second."""
        pixels = torch.from_numpy(seeded.seeded_image("image", self.json["image"], self.prefix))
        mask = torch.ones(len(pixels), *pixels.shape[2:], dtype=torch.bool)
        sizes = [tuple(size) for size in self.json["img_shapes"]]
        for i, (h, w) in enumerate(sizes):
            mask[i, :h, :w] = False
        none = {"in.gt_bboxes": np.zeros((0, 4), np.float32), "in.gt_labels": np.zeros(0, np.int64)}
        stored = {**none, **self.tensors}  # goldens without losses have no boxes
        boxes = torch.from_numpy(stored["in.gt_bboxes"])
        labels = torch.from_numpy(stored["in.gt_labels"])
        nothing = {"boxes": boxes[:0], "labels": labels[:0]}
        return {
            "pixels": pixels.masked_fill(mask[:, None], 0.0),
            "padding_mask": mask,
            "image_sizes": sizes,
            "scale_factors": None,
            "targets": [{"boxes": boxes, "labels": labels}, nothing],
        }

    def relative(self, name: str, ours: Tensor) -> float:
        """The largest difference to a stored output over the largest value of the whole output."""
        about = self.json["outputs"][name]
        assert list(ours.shape) == list(about["shape"]), (name, ours.shape, about["shape"])
        found = seeded.flat_sample(ours.detach().numpy(), about["flat_stride"])
        stored = self.tensors[f"out.{name}"].reshape(-1)
        return float(np.abs(found - stored).max(initial=0)) / max(about["absmax"], 1e-12)

    def check_losses(self, losses: dict[str, Tensor]) -> None:
        """Every loss of the original, to 1e-4 of its value; the names are the original's.

        The original's losses of several levels, whose names end in a number, are summed.
        """
        stored: dict[str, float] = {}
        for key in self.json["outputs"]:
            if key.startswith("loss."):
                name = key.removeprefix("loss.").rstrip("0123456789").rstrip(".")
                value = float(self.tensors[f"out.{key}"].reshape(-1)[0])
                stored[name] = stored.get(name, 0.0) + value
        assert losses.keys() == stored.keys()
        for name, expected in stored.items():
            assert abs(float(losses[name]) - expected) <= 1e-4 * abs(expected), name

    def check_raw(self, output: Any, prefix: str = "raw", limit: float = 1e-4) -> None:
        """Every tensor of a nested output, which is named by its place, that the original has."""
        if not any(key.startswith(prefix) for key in self.json["outputs"]):
            return
        if isinstance(output, Tensor):
            assert self.relative(prefix, output) < limit, prefix
        elif output is not None:
            for index, each in enumerate(output):
                self.check_raw(each, f"{prefix}.{index}", limit)

    def check_predictions(
        self, index: int, found: Any, score: float = 1e-3, overlap: float = 0.99
    ) -> None:
        """As sets: each box of the original has one of ours, except for a few at the threshold."""
        stored = {
            part: torch.from_numpy(self.tensors[f"out.pred{index}.{part}"])
            for part in ("bboxes", "scores", "labels")
        }
        scores, labels = stored["scores"].flatten(), stored["labels"].flatten()
        assert len(found) == len(scores)
        stride = self.json["outputs"][f"pred{index}.bboxes"]["flat_stride"]
        if stride > 1:  # single coordinates: those at the same place
            ours = torch.from_numpy(seeded.flat_sample(found.boxes.numpy(), stride))
            assert ((ours - stored["bboxes"].flatten()).abs() < 0.1).float().mean() > 0.9
            assert ((found.scores - scores).abs() < score).float().mean() > 0.97
            return
        boxes = stored["bboxes"].reshape(-1, 4)
        same = (found.labels == labels[:, None]) & ((found.scores - scores[:, None]).abs() < score)
        away = (boxes[:, None] - found.boxes).abs().amax(-1)  # boxes may be empty
        near = ((box_ops.iou(boxes[:, None], found.boxes) > overlap) | (away < 0.01)) & same
        assert near.any(1).float().mean() > 0.97

    def check_mask_areas(self, index: int, found: Any) -> None:
        """The pixels of the masks, best first, where the original predicts masks."""
        name = f"out.pred{index}.mask_area"
        if name in self.tensors:
            areas = torch.from_numpy(self.tensors[name].reshape(-1)).float()
            ours = found.masks.sum((1, 2)).float()
            assert ((ours - areas).abs() <= 2 + 0.01 * areas).float().mean() > 0.9
