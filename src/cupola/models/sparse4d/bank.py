"""InstanceBank: the learned instances, and those that are kept from frame to frame.

Letters: B streams, Q instances, M kept ones, C channels, N cameras.
Source: instance_bank.py of Sparse4D.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.sparse4d.boxes import CODE, COSINE, move_boxes
from cupola.models.sparse4d.frame import Frame, InstanceState, empty_state
from cupola.models.stream_petr.memory import invert_pose
from cupola.registry import MODELS

logger = logging.getLogger("cupola")

# Of anchors without a file: a car's size, on a disk of the range in which the published ones lie.
SPREAD, HEIGHT, SIDES = 55.0, -1.0, (4.0, 1.8, 1.6)
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


class Recalled(NamedTuple):
    """The state as seen from the present frame.

    feature, anchor, confidence, tracks, next_track: as in InstanceState. follows: [B], bool, True
    where the kept instances are used: the stream has had a frame, not too long ago. exists: [B],
    bool. seconds: [B], the time since the last frame, or the usual one.
    """

    feature: Tensor
    anchor: Tensor
    confidence: Tensor
    tracks: Tensor
    next_track: Tensor
    follows: Tensor
    exists: Tensor
    seconds: Tensor


@MODELS.register_module()
class InstanceBank(nn.Module):
    """Learned anchors [Q, 11], and M instances that are kept.

    `anchor` are boxes, or a .npy file of them. A checkpoint has its own anchors, so a file that is
    not there only matters for training from scratch: a warning says that they are then spread
    evenly over the ground.
    """

    def __init__(
        self,
        num_anchor: int,
        embed_dims: int,
        anchor: str | Sequence[Sequence[float]],
        anchor_handler: Mapping[str, Any] | None = None,
        num_temp_instances: int = 0,
        default_time_interval: float = 0.5,
        confidence_decay: float = 0.6,
        anchor_grad: bool = True,
        feat_grad: bool = True,
        max_time_interval: float = 2,
    ) -> None:
        super().__init__()
        if anchor_handler is None and num_temp_instances > 0:
            raise BuildError(
                "InstanceBank: kept instances need an anchor_handler, which moves them"
            )
        self.anchor_handler = MODELS.build(anchor_handler) if anchor_handler else None
        file = Path(anchor) if isinstance(anchor, str) else None
        missing = file is not None and not file.is_file()
        boxes = spread_anchors(num_anchor) if missing else read_anchors(anchor)[:num_anchor]
        self.num_anchor = len(boxes)
        self.kept = max(num_temp_instances, 0)
        if self.kept > self.num_anchor:
            raise BuildError(
                f"InstanceBank: num_temp_instances is {self.kept}, but there are "
                f"{self.num_anchor} anchors"
            )
        self.embed_dims = embed_dims
        self.default_time_interval = default_time_interval
        self.confidence_decay = confidence_decay
        self.max_time_interval = max_time_interval
        self.anchor = nn.Parameter(torch.from_numpy(boxes), requires_grad=anchor_grad)
        self.instance_feature = nn.Parameter(
            torch.zeros(self.num_anchor, embed_dims), requires_grad=feat_grad
        )
        if missing and not self.anchor.is_meta:
            logger.warning(
                "InstanceBank: there is no file %s; the anchors are spread evenly over the ground "
                "until a checkpoint replaces them. For training from scratch, put the file there",
                anchor,
            )

    def init_weights(self) -> None:
        """Xavier initialization of the features if they are learned."""
        if self.instance_feature.requires_grad:
            nn.init.xavier_uniform_(self.instance_feature)

    def initial_state(self, batch: int) -> InstanceState:
        """The state before the first frame of `batch` streams."""
        return empty_state(batch, self.kept, self.instance_feature, CODE)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """The learned features [B, Q, C] and boxes [B, Q, 11]."""
        return (
            self.instance_feature.expand(batch, -1, -1),
            self.anchor.expand(batch, -1, -1),
        )

    def recall(self, state: InstanceState, frame: Frame) -> Recalled:
        """The kept instances moved to the present frame."""
        exists = state.exists > 0
        since = (frame.timestamp - state.timestamp).to(state.feature.dtype)
        follows = (since.abs() <= self.max_time_interval) & exists
        matrix = invert_pose(frame.ego_pose) @ state.ego_pose
        usual = torch.full_like(since, self.default_time_interval)
        return Recalled(
            state.feature,
            move_boxes(state.anchor, matrix.to(state.anchor.dtype), since),
            state.confidence * state.exists[:, None],
            torch.where(follows[:, None], state.tracks, -1),
            torch.where(exists, state.next_track, 0),
            follows,
            exists,
            torch.where(follows & (since != 0), since, usual),
        )

    def merge(
        self, past: Recalled, feature: Tensor, boxes: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The kept instances, then the best others of [B, Q, ...], where a stream follows."""
        count = self.num_anchor - self.kept
        best = logits.amax(-1).topk(count, dim=1).indices
        follows = past.follows[:, None, None]
        merged = torch.cat((past.feature, chosen(feature, best)), 1)
        places = torch.cat((past.anchor, chosen(boxes, best)), 1)
        return torch.where(follows, merged, feature), torch.where(follows, places, boxes)

    def keep(
        self,
        past: Recalled,
        frame: Frame,
        feature: Tensor,
        boxes: Tensor,
        logits: Tensor,
        threshold: float | None,
    ) -> tuple[InstanceState, Tensor]:
        """The state after a frame, and the track of every instance [B, Q].

        An instance without a track gets a new one if its score is at least `threshold`. As in the
        original, confidences decay also over a gap that no instance outlives.
        """
        scores = logits.amax(-1).sigmoid()
        tracks = F.pad(past.tracks, (0, scores.shape[1] - self.kept), value=-1)
        new = tracks < 0
        if threshold is not None:
            new = new & (scores >= threshold)
        numbers = new.long().cumsum(1)  # 1, 2, ... at the new ones
        tracks = torch.where(new, past.next_track[:, None] + numbers - 1, tracks)
        decayed = F.pad(past.confidence * self.confidence_decay, (0, scores.shape[1] - self.kept))
        confidence, best = scores.maximum(decayed).topk(self.kept, dim=1)
        state = InstanceState(
            chosen(feature, best),
            chosen(boxes, best),
            confidence,
            tracks.gather(1, best),
            past.next_track + numbers[:, -1],
            frame.ego_pose,
            frame.timestamp,
            torch.full_like(scores[:, 0], float(self.kept > 0)),
        )
        return InstanceState(*(part.detach() for part in state)), tracks


def chosen(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of values [B, Q, D] -> [B, K, D]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def read_anchors(source: Any) -> Any:
    """Boxes [Q, 11], float32, of a .npy file or of numbers; BuildError for anything else."""
    try:
        found = np.load(source, allow_pickle=False) if isinstance(source, str) else source
        boxes = np.asarray(found, dtype=np.float32)
    except (OSError, ValueError) as error:
        raise BuildError(f"InstanceBank: anchor {source!r:.80} cannot be read: {error}") from error
    if boxes.ndim != 2 or boxes.shape[1] != CODE or not len(boxes):
        raise BuildError(
            f"InstanceBank: anchor should be boxes of {CODE} numbers each, got {list(boxes.shape)}"
        )
    return boxes


def spread_anchors(count: int) -> Any:
    """Boxes [count, 11] of a car's size that stand still, evenly over a disk of SPREAD meters."""
    number = np.arange(count)
    radius, angle = SPREAD * np.sqrt((number + 0.5) / count), GOLDEN_ANGLE * number
    boxes = np.zeros((count, CODE), np.float32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2] = radius * np.cos(angle), radius * np.sin(angle), HEIGHT
    boxes[:, 3:6] = np.log(SIDES)
    boxes[:, COSINE] = 1
    return boxes
