"""The content of one nuScenes sample, independent of the file that describes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cupola.data.driving.rig import CAMERA_NAMES
from cupola.errors import DataError

Array = NDArray[np.float64]

FOLDERS = ("samples", "sweeps")  # the folders of images below nuScenes' root


@dataclass(frozen=True)
class CameraView:
    """file: relative to the data set's root. lidar2img: [4, 4], meters -> pixels times depth.

    `stored` is the path as the converter wrote it, if it differs; it is tried first. seconds: when
    the image was taken, None if unknown.
    """

    name: str
    file: str
    lidar2img: Array
    stored: str = ""
    seconds: float | None = None

    def files(self) -> Iterator[str]:
        """Where the image may be, best first; absolute paths are as the converter wrote them."""
        yield self.stored or self.file
        yield from cut_paths(self.stored)
        yield self.file


@dataclass(frozen=True)
class SampleRecord:
    """One key frame, in its lidar's frame.

    boxes: [M, 9], center boxes (x, y, z, l, w, h, yaw, vx, vy); an unknown velocity is NaN.
    names: [M], nuScenes' detection names. lidar2ego, ego2global: [4, 4], None if not known.
    scene: its token. can_bus: [18] as BEVFormer takes it (structures/can_bus.py), None if unknown.
    timestamp: seconds, None if unknown. sweeps: earlier images of the cameras, the latest first.
    """

    token: str
    cameras: tuple[CameraView, ...]
    names: Sequence[str]
    boxes: Array
    lidar2ego: Array | None = None
    ego2global: Array | None = None
    scene: str = ""
    can_bus: Array | None = None
    timestamp: float | None = None
    sweeps: Sequence[tuple[CameraView, ...]] = ()

    def __post_init__(self) -> None:
        arrays = {view.name: view.lidar2img for view in self.cameras}
        for name, array in {**arrays, "a box": self.boxes[:, :7]}.items():
            if not np.isfinite(array).all():
                raise ValueError(f"sample {self.token!r:.60}: {name} has NaN or infinity")

    def camera(self, name: str) -> CameraView:
        """The view of one camera by its channel; DataError if the sample has none."""
        for view in self.cameras:
            if view.name == name:
                return view
        raise DataError(
            f"sample {self.token!r:.60} has no {name}, only {[c.name for c in self.cameras]}"
        )


def cut_paths(stored: str) -> list[str]:
    """A stored path from each of its components `samples` or `sweeps` on, the last one first."""
    parts = PurePosixPath(stored.replace("\\", "/")).parts
    starts = [at for at, part in enumerate(parts[:-1]) if part in FOLDERS]
    return [str(PurePosixPath(*parts[start:])) for start in reversed(starts)]


def pinhole(intrinsic: Array, lidar2cam: Array) -> Array:
    """[4, 4] from a camera's [3, 3] matrix and the rigid [4, 4] transform, in double precision."""
    view = np.eye(4)
    view[:3, :3] = intrinsic
    return np.asarray(view @ lidar2cam)


def rigid(rotation: Array, translation: Array) -> Array:
    """[4, 4]: a rotation followed by a translation."""
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation, translation
    return made


def camera_names(samples: Sequence[SampleRecord]) -> tuple[str, ...]:
    """nuScenes' six cameras in the models' order; of another rig, the first sample's order."""
    if not len(samples):
        return CAMERA_NAMES
    found = tuple(view.name for view in samples[0].cameras)
    return CAMERA_NAMES if set(CAMERA_NAMES) <= set(found) else found


def chosen_samples(
    samples: Sequence[SampleRecord], interval: int, indices: int | Sequence[int] | None
) -> Sequence[SampleRecord]:
    """Every `interval`-th sample, then those of `indices`; DataError for what cannot be chosen."""
    if not isinstance(interval, int) or interval < 1:
        raise DataError(f"load_interval should be a number from 1 on, got {interval!r:.60}")
    kept = samples if interval == 1 else samples[::interval]
    if indices is None:
        return kept
    if isinstance(indices, int):
        return kept[:indices] if indices >= 0 else kept[indices:]
    if wrong := [each for each in indices if not -len(kept) <= each < len(kept)]:
        raise DataError(f"indices {wrong[:5]} are not among the {len(kept)} samples")
    return [kept[each] for each in indices]
