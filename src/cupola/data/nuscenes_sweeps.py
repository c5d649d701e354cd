"""Earlier images of the cameras, as the info files of PETRv2 list them for every sample.

Source: loading.py and generate_sweep_pkl.py of megvii-research/PETR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from cupola.data.info_fields import Fields
from cupola.data.nuscenes_samples import CameraView, SampleRecord, cut_paths
from cupola.errors import DataError

MICROSECONDS = 1e6  # in a second
PERIOD = 0.083  # seconds from one image of a camera to the next, by which missing sweeps are dated
Views = tuple[CameraView, ...]


class InfoSweeps(Sequence[Views]):
    """The `sweeps` of a sample, the latest one first, each read from the file's dicts on access.

    A file of nuScenes lists millions of images, of which an epoch needs few.
    """

    def __init__(self, info: Fields) -> None:
        self._info, self._found = info, info.list("sweeps")

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> Views: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Views]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        sweep = Fields.of(self._found[index], self._info.where, f"sweeps[{index}]")
        if sweep.has("data_path"):
            raise DataError(
                f"{sweep.at('data_path')} is a sweep of the lidar, not of the cameras: PETRv2 "
                "needs info files as its generate_sweep_pkl.py writes them "
                "(mmdet3d_nuscenes_30f_infos_train.pkl)"
            )
        return tuple(_view(str(name), sweep.dict(name)) for name in sweep.content)


def _view(name: str, camera: Fields) -> CameraView:
    stored = camera.text("data_path")
    matrix = camera.numbers("lidar2img", (4, 4))
    seconds = float(camera.numbers("timestamp", ())) / MICROSECONDS
    if not np.isfinite(matrix).all() or not np.isfinite(seconds):
        raise DataError(f"{camera.at('lidar2img')} or timestamp has NaN or infinity")
    return CameraView(name, next(iter(cut_paths(stored)), stored), matrix, stored, seconds)


@dataclass(frozen=True)
class SweepChoice:
    """Which earlier images are paired with those of a sample.

    In training one of number `first` to `last` - 1 is drawn, with the probability `prob`; else and
    in test mode it is the middle one. `fixed` always takes that number. With `pad` a sample without
    earlier images is paired with itself.
    """

    first: int = 3
    last: int = 27
    fixed: int | None = None
    pad: bool = False
    test_mode: bool = True
    prob: float = 1.0

    @classmethod
    def from_step(cls, step: Mapping[str, Any]) -> "SweepChoice":
        """From the arguments of LoadMultiViewImageFromMultiSweepsFiles; DataError."""
        fixed = step.get("sweeps_id") or ()
        if step.get("sweeps_num", 5) != 1 or len(fixed) > 1:
            raise DataError(
                "pipeline: LoadMultiViewImageFromMultiSweepsFiles needs sweeps_num=1: PETRv2 pairs "
                f"the present images with one earlier set, got {step.get('sweeps_num', 5)}"
            )
        low, high = (int(each) for each in step.get("sweep_range", (3, 27)))
        if not 0 <= low < high:
            raise DataError(
                f"pipeline: sweep_range should be two growing numbers, got {[low, high]}"
            )
        return cls(
            low,
            high,
            int(fixed[0]) if fixed else None,
            bool(step.get("pad_empty_sweeps", False)),
            bool(step.get("test_mode", True)),
            float(step.get("prob", 1.0)),
        )

    @property
    def _middle(self) -> int:
        return (self.first + self.last) // 2 - 1

    def number(self, count: int, rng: np.random.Generator) -> int:
        """Which of `count` sweeps is taken."""
        if self.fixed is not None:
            chosen = self.fixed
        elif count == 1:
            chosen = 0
        elif self.test_mode or rng.random() >= self.prob:
            chosen = self._middle
        else:
            end = min(self.last, count) if self.first < count else self.last
            chosen = int(rng.integers(self.first, end))
        return min(chosen, count - 1)

    def pair(
        self, record: SampleRecord, names: Sequence[str], rng: np.random.Generator
    ) -> tuple[list[CameraView], list[float]]:
        """The present views in the order of `names` and the earlier ones, and the age of each.

        Ages are seconds before the lidar's sweep. DataError where images or times are missing.
        """
        present = [record.camera(name) for name in names]
        if record.timestamp is None or any(view.seconds is None for view in present):
            raise DataError(
                f"sample {record.token!r:.60} has no timestamp of its own or of a camera, by which "
                "PETRv2 tells the age of its images"
            )
        ages = [_age(record, view) for view in present]
        if not len(record.sweeps):
            if not self.pad:
                raise DataError(
                    f"sample {record.token!r:.60} has no sweeps; pad_empty_sweeps=True of "
                    "LoadMultiViewImageFromMultiSweepsFiles pairs its images with themselves"
                )
            gap = (self.first + self.last) / 2 * PERIOD
            return present * 2, ages + [age + gap for age in ages]
        at = self.number(len(record.sweeps), rng)
        earlier = {view.name: view for view in record.sweeps[at]}
        if len(earlier) < len(names) and at > 0:  # a drive's first images are not complete
            earlier = {view.name: view for view in record.sweeps[at - 1]}
        if missing := [name for name in names if name not in earlier]:
            raise DataError(f"sample {record.token!r:.60}: sweeps[{at}] has no {missing}")
        views = [earlier[name] for name in names]
        return present + views, ages + [_age(record, view) for view in views]


def _age(record: SampleRecord, view: CameraView) -> float:
    assert record.timestamp is not None and view.seconds is not None
    return record.timestamp - view.seconds
