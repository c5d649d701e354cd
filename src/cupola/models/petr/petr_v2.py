"""PETRv2: the present frame and an earlier one, and the state that keeps earlier frames.

Letters: B samples, F frames, N cameras, C channels, h and w size of the feature map.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.models.detr3d import DETR3DOutput
from cupola.models.petr.head import Views
from cupola.models.petr.inspection import inspect_attention
from cupola.models.petr.petr import ImageSize, Petr3DOriginal, padding_mask
from cupola.models.petr.position import invert_cameras
from cupola.registry import MODELS
from cupola.structures import Detections3D

# The mean of the published test pipeline: sweeps 3 to 27 before the key frame, 0.083 s each.
SWEEP_SECONDS = 15 * 0.083
KEPT_FRAMES = 16


class PETRv2State(NamedTuple):
    """Earlier frames of a stream, the latest one first; F is 0 at the start.

    features: [B, F, N, C, h, w]. lidar2img: [B, F, N, 4, 4], each for the lidar of its own time.
    ego_pose: [B, F, 4, 4], lidar to a fixed frame. timestamp: [B, F], seconds, float64.
    """

    features: Tensor
    lidar2img: Tensor
    ego_pose: Tensor
    timestamp: Tensor


@MODELS.register_module()
class PETRv2(Petr3DOriginal):
    """Pairs the present frame with that of about `sweep_seconds` ago.

    Without an earlier frame the present one is paired with itself, as the published pipelines do.
    Sources: PETRv2 (arXiv 2206.01256); petr3d.py, transform_3d.py of megvii-research/PETR.
    """

    stream_inputs = ("ego_pose", "timestamp")
    engine_method = "extract"  # the state of a stream is no result of a graph

    def __init__(
        self, *args: Any, sweep_seconds: float = SWEEP_SECONDS, frames: int = KEPT_FRAMES, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.sweep_seconds = sweep_seconds
        self.frames = frames

    def initial_state(self, batch: int = 1) -> PETRv2State:
        """The state before the first frame of `batch` streams."""
        weight = self.pts_bbox_head.input_proj.weight
        double = {"dtype": torch.float64, "device": weight.device}
        return PETRv2State(
            weight.new_zeros(batch, 0, 0, 0, 0, 0),
            torch.zeros(batch, 0, 0, 4, 4, **double),
            torch.zeros(batch, 0, 4, 4, **double),
            torch.zeros(batch, 0, **double),
        )

    def forward(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        valid_size: ImageSize | None = None,
        *,
        ages: Tensor | None = None,
        ego_pose: Tensor | None = None,
        timestamp: Tensor | None = None,
        state: PETRv2State | None = None,
    ) -> Any:
        """Both frames at once -> DETR3DOutput; or one frame and a state -> output and next state.

        At once: pixels [B, 2 * N, 3, H, W], the present frame first; lidar2img [B, 2 * N, 4, 4],
        all for the present lidar; `ages` [B, 2 * N], seconds by which each image is older than
        the present.
        With a state: pixels [B, N, 3, H, W], lidar2img [B, N, 4, 4], ego_pose [B, 4, 4] (lidar to
        a frame that does not move) and timestamp [B] in seconds, float64.
        `valid_size` as for PETR.
        """
        if state is None:
            views = self.views(pixels, lidar2img, valid_size)
            return self._detect(self.extract(pixels), views, _seconds(ages))
        if ego_pose is None or timestamp is None:
            raise InputError("a frame of a stream needs ego_pose [B, 4, 4] and timestamp [B]")
        views = self.views(pixels, lidar2img, valid_size)
        levels = self.extract(pixels)
        level = self.pts_bbox_head.position_level
        present = PETRv2State(
            levels[level][:, None],
            lidar2img[:, None].double(),
            ego_pose[:, None].double(),
            timestamp[:, None].double(),
        )
        earlier, seconds = self._earlier(present, state)
        both = torch.cat((present.features, earlier.features), 1).flatten(1, 2)
        move = invert_cameras(earlier.ego_pose) @ present.ego_pose  # present lidar -> its own
        matrices = torch.cat((present.lidar2img, earlier.lidar2img @ move[:, :, None]), 1).flatten(
            1, 2
        )  # [B, 2 * N, 4, 4]
        mask = None
        if views.mask is not None:
            mask = padding_mask(pixels, valid_size if valid_size is not None else ())
            mask = None if mask is None else mask.repeat(1, 2, 1, 1)
        paired = Views(matrices, views.image_size, mask, seconds)
        filled = [both if i == level else each for i, each in enumerate(levels)]
        return self.pts_bbox_head(filled, paired), self._next_state(present, state)

    def inspect(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        image_size: Any = None,
        ego_pose: Tensor | None = None,
        timestamp: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The same for a stream's first frame, which is paired with itself."""
        state = self.initial_state(1)
        still = torch.eye(4, dtype=torch.float64, device=pixels.device)[None]
        motion = {
            "ego_pose": still if ego_pose is None else ego_pose,
            "timestamp": still[:, 0, 0] if timestamp is None else timestamp,
        }
        cells = self.extract(pixels)[self.pts_bbox_head.position_level].shape[-2:]
        return inspect_attention(
            self.pts_bbox_head,
            lambda: self(pixels, lidar2img, state=state, **motion)[0],
            cells,
            frames=2,
        )

    def _detect(
        self, levels: tuple[Tensor, ...], views: Views, seconds: Tensor | None
    ) -> DETR3DOutput:
        views = Views(views.lidar2img, views.image_size, views.mask, seconds)
        output: DETR3DOutput = self.pts_bbox_head(levels, views)
        return output

    def _earlier(self, present: PETRv2State, state: PETRv2State) -> tuple[PETRv2State, Tensor]:
        """The frame that is paired with the present one, F = 1, and its age [B]."""
        if state.timestamp.shape[1] == 0:
            return present, torch.full_like(present.timestamp[:, 0], self.sweep_seconds)
        ages = present.timestamp - state.timestamp  # [B, F]
        if state.timestamp.shape[1] == 1:
            return state, ages[:, 0]
        best = (ages - self.sweep_seconds).abs().argmin(1)
        rows = torch.arange(len(best), device=best.device)
        frame = PETRv2State(*(each[rows, best][:, None] for each in state))
        return frame, ages[rows, best]

    def _next_state(self, present: PETRv2State, state: PETRv2State) -> PETRv2State:
        if state.timestamp.shape[1] == 0 or torch.compiler.is_exporting():
            return present
        kept = PETRv2State(
            *(torch.cat((new, old), 1) for new, old in zip(present, state, strict=True))
        )
        older = (kept.timestamp[:, :1] - kept.timestamp >= self.sweep_seconds).all(0)  # [F]
        count = min(int((~older).sum()) + 1, self.frames)
        return PETRv2State(*(each[:, :count] for each in kept))

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch with both frames: pixels, lidar2img, ages and targets."""
        pixels, ages = self.pixels_of(batch), batch.get("ages")
        views = self.views(pixels, batch["lidar2img"], batch.get("valid_size"))
        views = replace(views, seconds=_seconds(ages))
        losses: dict[str, Tensor] = self.pts_bbox_head.training_loss(
            self.extract(pixels), views, batch["targets"]
        )
        return losses

    def predict(self, batch: Mapping[str, Any]) -> list[Detections3D]:
        """Detections of a batch with both frames; single frames are paired with themselves."""
        if "ages" in batch:
            output = self(
                self.pixels_of(batch),
                batch["lidar2img"],
                batch.get("valid_size"),
                ages=batch["ages"],
            )
            found: list[Detections3D] = self.pts_bbox_head.predict(output)
            return found
        count = len(batch["lidar2img"])
        still = torch.eye(4, dtype=torch.float64).expand(count, 4, 4)
        return self.predict_frame(
            {**batch, "ego_pose": still, "timestamp": torch.zeros(count, dtype=torch.float64)},
            self.initial_state(count),
        )[0]

    def predict_frame(
        self, batch: Mapping[str, Any], state: PETRv2State
    ) -> tuple[list[Detections3D], PETRv2State]:
        """Detections of the next frame of every stream, and the states after it."""
        output, state = self(
            self.pixels_of(batch),
            batch["lidar2img"],
            batch.get("valid_size"),
            ego_pose=batch["ego_pose"],
            timestamp=batch["timestamp"],
            state=state,
        )
        return self.pts_bbox_head.predict(output), state


def _seconds(ages: Tensor | None) -> Tensor | None:
    """Ages [B, 2 * N] -> by how much the second half is older [B]."""
    if ages is None:
        return None
    present, earlier = ages.chunk(2, dim=1)
    return (earlier - present).mean(-1)
