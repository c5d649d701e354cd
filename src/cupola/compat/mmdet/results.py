"""Results in MMDetection's layout: a DetDataSample with its pred_instances."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cupola.structures import Detections


@dataclass(frozen=True)
class InstanceData:
    """bboxes [N, 4] xyxy in pixels, scores [N], labels [N]: tensors, or arrays after `numpy()`.

    Models with masks add masks [N, H, W], bool. An index, a slice, a list of indices or a mask
    selects instances.
    """

    bboxes: Any
    scores: Any
    labels: Any
    masks: Any = None

    def __len__(self) -> int:
        return len(self.scores)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, chosen: Any) -> "InstanceData":
        if isinstance(chosen, int):
            chosen = slice(chosen, chosen + 1 or None)
        return self._map(lambda values: values[chosen])

    def keys(self) -> tuple[str, ...]:
        """The names of the fields."""
        return ("bboxes", "scores", "labels", *(("masks",) if self.masks is not None else ()))

    all_keys = keys

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the fields."""
        return ((key, getattr(self, key)) for key in self.keys())

    def to_dict(self) -> dict[str, Any]:
        """The fields by their names."""
        return dict(self.items())

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or `default` where there is no such field (`masks`)."""
        return getattr(self, key) if key in self else default

    def numpy(self) -> "InstanceData":
        """The same with numpy arrays."""
        return self._map(lambda values: np.asarray(values))

    def to_tensor(self) -> "InstanceData":
        """The same with tensors."""
        return self._map(torch.as_tensor)

    def cpu(self) -> "InstanceData":
        """The same: results are on the CPU already."""
        return self

    detach = cpu

    def _map(self, change: Callable[[Any], Any]) -> "InstanceData":
        return InstanceData(*(change(values) for _, values in self.items()))


@dataclass(frozen=True)
class PixelData:
    """sem_seg [1, H, W], int32: a panoptic map, label + 1000 * number of the thing."""

    sem_seg: Any


@dataclass(frozen=True)
class DetDataSample:
    """The result for one image.

    pred_instances: all detections, best first, without a threshold. metainfo: `ori_shape` (height,
    width) and, for a file, `img_path`, which are attributes too. found: Cupola's own result.
    """

    pred_instances: InstanceData
    metainfo: dict[str, Any]
    found: Detections = field(repr=False)

    @classmethod
    def of(cls, found: Detections, metainfo: dict[str, Any]) -> "DetDataSample":
        """The sample of one image's detections."""
        instances = InstanceData(found.boxes, found.scores, found.labels, found.masks)
        return cls(instances, metainfo, found)

    @property
    def pred_panoptic_seg(self) -> PixelData:
        """The panoptic segmentation; AttributeError for models without one."""
        if self.found.panoptic is None:
            raise AttributeError("DetDataSample has no 'pred_panoptic_seg'; see docs/masks.md")
        return PixelData(self.found.panoptic.ids[None])

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.metainfo:
            return self.metainfo[name]
        raise AttributeError(f"DetDataSample has no {name!r}; see docs/migrate.md")

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def keys(self) -> tuple[str, ...]:
        """pred_instances, and pred_panoptic_seg for models that have it."""
        panoptic = () if self.found.panoptic is None else ("pred_panoptic_seg",)
        return ("pred_instances", *panoptic)

    def get(self, name: str, default: Any = None) -> Any:
        """A field or a value of metainfo, or `default` where there is none."""
        return getattr(self, name) if name in self else self.metainfo.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """The fields as dicts."""
        made = {"pred_instances": self.pred_instances.to_dict()}
        if "pred_panoptic_seg" in self:
            made["pred_panoptic_seg"] = {"sem_seg": self.pred_panoptic_seg.sem_seg}
        return made

    def cpu(self) -> "DetDataSample":
        """The same: results are on the CPU already."""
        return self

    detach = cpu

    def by_class(self) -> list[NDArray[np.float32]]:
        """The result of MMDetection 2.x: one array [n, 5] (xyxy, score) for each class."""
        boxes = torch.cat((self.found.boxes, self.found.scores[:, None]), dim=1).float().numpy()
        labels = self.found.labels.numpy()
        count = max(len(self.found.names), int(labels.max(initial=-1)) + 1)
        return [boxes[labels == label] for label in range(count)]

    def draw(self, score_thr: float = 0.3) -> Image.Image:
        """The image with the boxes of at least that score."""
        return self.found.above(score_thr).draw()
