"""nuScenes for models of streams: clips of a key frame and earlier ones, and whole sequences.

Sources: nuscenes_dataset.py of BEVFormer and of StreamPETR.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from cupola.data.nuscenes_samples import Array, SampleRecord
from cupola.errors import DataError

STACKED = (
    *("images", "raw_images", "lidar2img", "intrinsics", "extrinsics", "ego_pose", "timestamp"),
    *("can_bus", "prev_exists"),
)


def clip_indices(index: int, length: int, rng: np.random.Generator, left_out: int = 1) -> list[int]:
    """`length` indices in order, the last one `index`.

    Of the `length` - 1 + `left_out` before it `left_out` are missing: BEVFormer leaves out one,
    StreamPETR `random_length`.
    """
    earlier = np.arange(index - length - left_out + 1, index)
    kept = np.sort(rng.choice(earlier, length - 1, replace=False)) if left_out else earlier
    return [max(0, int(each)) for each in (*kept, index)]


def motion_of(record: SampleRecord) -> dict[str, torch.Tensor]:
    """What a stream needs to know of a frame besides its images; DataError if it is not known."""
    if record.can_bus is None or not record.scene:
        raise DataError(
            f"sample {record.token!r:.60} has no can_bus with a scene_token: clips need info files "
            "as BEVFormer writes them (nuscenes_infos_temporal_train.pkl)"
        )
    return {"can_bus": torch.from_numpy(record.can_bus)}


def join_clip(
    frames: Sequence[dict[str, Any]], scenes: Sequence[str], all_truths: bool = False
) -> dict[str, Any]:
    """Samples in order -> one sample with T frames and the truth of the last one, or of each.

    `prev_exists` [T] is 0 where a frame is not of the scene of the frame before. With `all_truths`
    "boxes" and "labels" are lists of T.
    """
    follows = [False, *(a == b for a, b in pairwise(scenes))]
    for frame, one in zip(frames, follows, strict=True):
        frame["prev_exists"] = torch.tensor(float(one))
    joined: dict[str, Any] = {
        key: torch.stack([frame[key] for frame in frames]) for key in STACKED if key in frames[0]
    }
    if all_truths:
        joined |= {key: [frame[key] for frame in frames] for key in ("boxes", "labels")}
    return {**frames[-1], **joined}


def pose_of(record: SampleRecord) -> tuple[Array, float]:
    """ego_pose [4, 4], lidar to global, and seconds; DataError if they are not known."""
    if record.lidar2ego is None or record.ego2global is None or record.timestamp is None:
        raise DataError(
            f"sample {record.token!r:.60} has no timestamp, lidar2ego or ego2global: sequences "
            "need info files with scene_token, as StreamPETR writes them "
            "(nuscenes2d_temporal_infos_train.pkl)"
        )
    return record.ego2global @ record.lidar2ego, record.timestamp


def moving_sequences(samples: Sequence[SampleRecord]) -> list[list[int]] | None:
    """The scenes where every sample has can_bus, as BEVFormer needs it; else None."""
    if any(sample.can_bus is None for sample in samples):
        return None
    return scene_sequences(samples)


def split_sequences(sequences: Sequence[list[int]], parts: int | str) -> list[list[int]]:
    """Each sequence in `parts` of equal length, the last one shorter; "all" are single frames."""
    found = []
    for each in sequences:
        size = 1 if parts == "all" else math.ceil(len(each) / int(parts))
        found += [each[start : start + size] for start in range(0, len(each), size)]
    return found


def scene_sequences(records: Sequence[SampleRecord]) -> list[list[int]]:
    """The indices of the samples of each scene, in the order of the samples."""
    found: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        found.setdefault(record.scene, []).append(index)
    return list(found.values())
