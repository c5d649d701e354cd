"""nuScenes: the devkit's tables or MMDetection3D's info files, as samples of six images.

Samples are described by SampleRecords; images are read on access.
Targets are in the lidar's frame of the sample's key frame, z at the bottom of the box.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cupola.data.detection3d import collate_detection3d
from cupola.data.multiview_pipeline import read_pipeline
from cupola.data.nuscenes_clips import (
    clip_indices,
    join_clip,
    motion_of,
    moving_sequences,
    pose_of,
    scene_sequences,
    split_sequences,
)
from cupola.data.nuscenes_images import ImageSettings, finished, read_view, resized
from cupola.data.nuscenes_infos import info_path, info_samples
from cupola.data.nuscenes_samples import CameraView, SampleRecord, camera_names, chosen_samples
from cupola.data.nuscenes_sweeps import SweepChoice
from cupola.data.nuscenes_tables import Tables
from cupola.data.nuscenes_truth import (
    find_tables,
    targets_of,
    truth_from_record,
    truth_from_tables,
)
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures.projections import split_projections
from cupola.structures.scene_truth import SceneTruth

Array = NDArray[np.float64]
logger = logging.getLogger("cupola")

NUSCENES_NAMES = (
    *("car", "truck", "construction_vehicle", "bus", "trailer", "barrier"),
    *("motorcycle", "bicycle", "pedestrian", "traffic_cone"),
)


# Options of published datasets that have nothing to do here: kinds of boxes and sensors, storage,
# what the model says itself, and the official evaluation, which has one version.
WITHOUT_EFFECT = (
    *("modality", "box_type_3d", "with_velocity", "eval_version", "filter_empty_gt", "classes"),
    *("file_client_args", "backend_args", "bev_size", "num_frame_losses", "overlap_test"),
    *("lazy_init", "serialize_data", "max_refetch", "load_eval_anns", "samples_per_gpu"),
)


@DATASETS.register_module()
class NuScenesDataset:
    """Sample i -> {"images" [N, 3, H, W], "lidar2img", "boxes" [M, 9], "labels", "token"}.

    `ann_file` names an info file (.pkl) under `data_root`, either layout; without it the devkit's
    tables of `version` are read. `pipeline` is a published one, of either repository; `images`
    overrides its image settings. If neither normalizes, the model does. Objects of other classes,
    outside `point_cloud_range` or without a lidar point (with `use_valid_flag`, the default for
    tables, without a lidar or radar point) are left out, as in the published pipeline; unknown
    velocities are 0. `data_prefix` names the folders of the images by camera for layout 2.
    `cameras` selects and orders the cameras. `load_interval` k keeps every k-th sample, `indices`
    the first ones (a number) or those it lists. `box_convention` "0.x" reads info files from before
    MMDetection3D 1.0; by default those that BEVFormer's converter wrote are, and those whose
    vehicles would be wider than long.

    With `queue_length` T, samples for training are clips of T frames: "images" [T, N, 3, H, W],
    "lidar2img" [T, N, 4, 4], "can_bus" [T, 18], "prev_exists" [T], and the boxes of the last frame.
    In test mode the scenes of such info files are `sequences`.

    With `seq_mode`, or `ego_pose` in `collect_keys`, samples have what StreamPETR needs:
    "intrinsics" and "extrinsics" [N, 4, 4], "ego_pose" and "timestamp". With `seq_mode` or in test
    mode the scenes are `sequences`, in training each in `seq_split_num` parts, and samples also
    have "prev_exists" and "stream". With `queue_length` T they are clips, drawn from the
    T + `random_length` latest frames, with the "boxes" and "labels" of every frame.

    With PETRv2's pipeline the samples of its info files have 2 * N images, the later half of an
    earlier moment, and "ages" [2 * N] in seconds. Raises DataError.
    """

    def __init__(
        self,
        data_root: str | Path,
        ann_file: str | None = None,
        version: str = "v1.0-trainval",
        metainfo: Mapping[str, Any] | None = None,
        point_cloud_range: Sequence[float] | None = None,
        images: Mapping[str, Any] | None = None,
        scenes: Sequence[str] | None = None,
        box_convention: str | None = None,
        use_valid_flag: bool | None = None,
        data_prefix: Mapping[str, str] | None = None,
        cameras: Sequence[str] = (),
        test_mode: bool = False,
        pipeline: Sequence[Mapping[str, Any]] = (),
        seed: int = 0,
        queue_length: int = 1,
        seq_mode: bool = False,
        seq_split_num: int | str = 1,
        random_length: int = 0,
        collect_keys: Sequence[str] = (),
        load_interval: int = 1,
        indices: int | Sequence[int] | None = None,
        **published: Any,
    ) -> None:
        self.root = root = Path(data_root)
        if unknown := sorted(set(published) - set(WITHOUT_EFFECT)):
            logger.warning("NuScenesDataset: %s has no effect", ", ".join(unknown))
        asked = read_pipeline(pipeline)
        classes = (metainfo or {}).get("classes") or asked.get("classes")
        self.names = tuple(classes or NUSCENES_NAMES)
        self.point_cloud_range = point_cloud_range or asked.get("point_cloud_range")
        self.test_mode = test_mode
        self._use_pipeline(asked, images)
        self.seed, self.epoch = seed, 0
        if ann_file is not None:
            self.samples = info_samples(
                info_path(root, ann_file), box_convention, bool(use_valid_flag), data_prefix
            )
        else:
            self.samples = Tables(root, version, use_valid_flag is not False).samples(scenes)
        self.samples = chosen_samples(self.samples, load_interval, indices)
        self.queue_length = 1 if test_mode or seq_mode else queue_length
        self.posed = seq_mode or "ego_pose" in collect_keys
        self.random_length = random_length
        if self.motion is not None and self.queue_length > 1 and not self.posed:
            raise DataError(
                "pipeline: GlobalRotScaleTransImage is not supported with queue_length "
                f"{queue_length}: the motion of the vehicle (can_bus) would not fit the moved scene"
            )
        self.sequences: list[list[int]] | None = None
        if self.posed and (seq_mode or test_mode):
            parts = 1 if test_mode else seq_split_num
            self.sequences = split_sequences(scene_sequences(self.samples), parts)
        elif test_mode and ann_file is not None:
            self.sequences = moving_sequences(self.samples)
        self.cameras = tuple(cameras) or camera_names(self.samples)
        scored = test_mode or ann_file is None
        self.tables = find_tables(root, version, self.samples) if scored else None

    def _use_pipeline(self, asked: Mapping[str, Any], images: Mapping[str, Any] | None) -> None:
        raw = images is None and "mean" not in asked["images"]
        self.motion = None if self.test_mode else asked.get("motion")
        self.images = ImageSettings(**{"raw": raw, **asked["images"], **(images or {})})
        self.sweeps: SweepChoice | None = asked.get("sweeps")

    def _scene(self, record: SampleRecord) -> SceneTruth | None:
        if self.tables is not None:
            return truth_from_tables(self.tables, record.token)
        return truth_from_record(record) if self.test_mode else None

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Changes the random distortions; called by the training loop."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.queue_length < 2:
            return self.frame(index)
        rng = np.random.default_rng((self.seed, self.epoch, index, self.queue_length))
        left_out = self.random_length if self.posed else 1
        chosen = clip_indices(index, self.queue_length, rng, left_out)
        scenes = [self.samples[each].scene for each in chosen]
        return join_clip([self.frame(each) for each in chosen], scenes, all_truths=self.posed)

    def frame(self, index: int) -> dict[str, Any]:
        """One sample, without the frames before it."""
        record = self.samples[index]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        crop = self.images.crop.draw(rng) if self.images.crop else None
        cameras, ages = self._cameras_of(record, rng)
        views, scaling = [], []
        for camera in cameras:
            view, matrix = resized(read_view(self.root, camera), self.images, crop)
            views.append(view)
            scaling.append(matrix)
        back = np.eye(4)
        boxes, labels = targets_of(record, self.names, self.point_cloud_range)
        if self.motion is not None:
            motion = self.motion.draw(rng)
            boxes, back = motion.boxes(boxes), np.linalg.inv(motion.matrix())
        images: NDArray[Any] = np.stack(views)
        if self.images.distortion is not None:
            images = self.images.distortion(images.astype(np.float32), rng)
        return {
            **finished(images, self.images),
            **self._matrices(record, cameras, np.stack(scaling), back),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "token": record.token,
            "scene": self._scene(record),
            **self._motion(index, record),
            **ages,
        }

    def _cameras_of(
        self, record: SampleRecord, rng: np.random.Generator
    ) -> tuple[list[CameraView], dict[str, torch.Tensor]]:
        """The images of a sample; with `sweeps` also those of an earlier moment, and "ages"."""
        if self.sweeps is None:
            return [record.camera(name) for name in self.cameras], {}
        views, ages = self.sweeps.pair(record, self.cameras, rng)
        return views, {"ages": torch.tensor(ages, dtype=torch.float32)}

    def _matrices(
        self, record: SampleRecord, cameras: Sequence[CameraView], scaling: Array, back: Array
    ) -> dict[str, torch.Tensor]:
        """The calibration of images that `scaling` [N, 4, 4] changed and a scene moved by `back`'s
        inverse, and for sequences the pose of the lidar.
        """
        lidar2img = np.stack([camera.lidar2img for camera in cameras])
        found = {"lidar2img": scaling @ lidar2img @ back}
        if self.posed:
            intrinsics, extrinsics = split_projections(lidar2img)
            pose, _ = pose_of(record)
            found |= {"intrinsics": scaling @ intrinsics, "extrinsics": extrinsics @ back}
            found["ego_pose"] = pose @ back
        return {key: torch.from_numpy(value.astype(np.float32)) for key, value in found.items()}

    def _motion(self, index: int, record: SampleRecord) -> dict[str, Any]:
        """What models of streams need, where the frames are parts of clips or sequences."""
        if self.posed:
            known = {"timestamp": torch.tensor(pose_of(record)[1], dtype=torch.float64)}
        elif self.sequences is not None or self.queue_length > 1:
            known = motion_of(record)
        else:
            return {}
        if self.sequences is None:
            return known
        first = any(each[0] == index for each in self.sequences)
        place = {"prev_exists": torch.tensor(float(not first)), "stream": record.scene}
        return {**known, **place}

    collate = staticmethod(collate_detection3d)
