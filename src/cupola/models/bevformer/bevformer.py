"""BEVFormer: frame after frame of a drive, with a bird's-eye view that moves with the vehicle.

Letters: B streams, T frames, N cameras, L decoder layers, Q queries, K cells, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.models.bevformer.inspection import inspect_bevformer
from cupola.models.bevformer.motion import DEGREES, BEVState, motion_since
from cupola.models.detr3d import DETR3DOutput
from cupola.models.detr3d.extraction import learning
from cupola.models.detr3d.feature_sampling import Cameras
from cupola.models.petr.petr import CameraDetector
from cupola.registry import MODELS
from cupola.structures import Detections3D
from cupola.structures.can_bus import CAN_BUS, can_bus_of_lidar

ImageSize = Sequence[int] | Tensor


@MODELS.register_module(["BEVFormer", "BEVFormer_fp16"])
class BEVFormer(CameraDetector):
    """`state = model.initial_state()`, then `output, state = model(..., state)` for each frame.

    With `video_test_mode` False, as by default, every frame is the first one of its stream.
    Training takes clips of T frames: all but the last one are seen in eval mode without gradients.
    Sources: BEVFormer (arXiv 2203.17270); bevformer.py.
    """

    stream_inputs = ("can_bus",)
    engine_method = "extract"  # the state of a stream is no result of a graph

    def __init__(self, *args: Any, video_test_mode: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.video_test_mode = video_test_mode
        self.training_state: BEVState | None = None  # of the streams that a training follows

    def initial_state(self, batch: int = 1) -> BEVState:
        """The state before the first frame of `batch` streams."""
        grid = self.pts_bbox_head.bev_embedding.weight
        double: dict[str, Any] = {"dtype": torch.float64, "device": grid.device}
        return BEVState(
            grid.new_zeros(batch, *grid.shape),
            torch.zeros(batch, 3, **double),
            torch.zeros(batch, **double),
            grid.new_zeros(batch),
        )

    def cameras(self, pixels: Tensor, lidar2img: Tensor, image_size: ImageSize | None) -> Cameras:
        """Checks the matrices [B, N, 4, 4] and combines them with the image size."""
        if lidar2img.shape != (*pixels.shape[:2], 4, 4):
            raise InputError(
                f"lidar2img should be {[*pixels.shape[:2], 4, 4]}, one matrix per image, "
                f"got {list(lidar2img.shape)}"
            )
        known = self.pts_bbox_head.transformer.num_cams
        if pixels.shape[1] != known:
            raise InputError(f"the model has {known} cameras (num_cams), got {pixels.shape[1]}")
        lidar2img = lidar2img.to(torch.promote_types(pixels.dtype, torch.float32))
        size = torch.as_tensor(pixels.shape[-2:] if image_size is None else image_size)
        # The original divides all projections by the size of the batch's first image.
        return Cameras(lidar2img, size.view(-1, 2)[:1].expand(len(pixels), 2).to(lidar2img))

    def forward(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        image_size: ImageSize | None = None,
        *,
        can_bus: Tensor | None = None,
        state: BEVState | None = None,
        prev_exists: Tensor | None = None,
    ) -> tuple[DETR3DOutput, BEVState]:
        """One frame of every stream, and their state -> output and next state.

        pixels [B, N, 3, H, W], normalized; lidar2img [B, N, 4, 4], meters -> pixels; `image_size`
        is (height, width), by default that of the images with their padding; can_bus [B, 18] as
        measured, position and heading in the world. `state` None starts all streams; `prev_exists`
        [B] with 0 starts single ones.
        Output: logits [L, B, Q, C] and box codes [L, B, Q, 10]; the bird's-eye view [B, K, C] is
        that of the next state.
        """
        can_bus = self._checked(can_bus, len(pixels))
        state = self._started(state, prev_exists, len(pixels))
        cameras = self.cameras(pixels, lidar2img, image_size)
        output, bev = self.pts_bbox_head(
            self.extract(pixels), cameras, motion_since(state, can_bus)
        )
        return output, next_state(bev, can_bus)

    def see(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        image_size: ImageSize | None,
        can_bus: Tensor,
        state: BEVState,
    ) -> BEVState:
        """The state after a frame whose objects are not asked for."""
        cameras = self.cameras(pixels, lidar2img, image_size)
        motion = motion_since(state, can_bus)
        return next_state(self.pts_bbox_head.see(self.extract(pixels), cameras, motion), can_bus)

    def _checked(self, can_bus: Tensor | None, batch: int) -> Tensor:
        if can_bus is None or can_bus.shape != (batch, CAN_BUS):
            got = "nothing" if can_bus is None else list(can_bus.shape)
            raise InputError(f"a frame of a stream needs can_bus {[batch, CAN_BUS]}, got {got}")
        return can_bus.double()

    def _started(self, state: BEVState | None, prev_exists: Tensor | None, batch: int) -> BEVState:
        state = self.initial_state(batch) if state is None else state
        if len(state.exists) != batch:
            raise InputError(f"the state is of {len(state.exists)} streams, the batch of {batch}")
        known = state.exists if self.video_test_mode or self.training else state.exists * 0
        if prev_exists is not None:
            known = known * prev_exists.to(known)
        return state._replace(exists=known)

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch of frames [B, N, ...], or of the last frames of clips [B, T, ...].

        can_bus is [B, 18] or [B, T, 18], or `ego_pose` [B, 4, 4] or [B, T, 4, 4] (lidar to a frame
        that does not move) tells it. In clips `prev_exists` [B, T], if given, is 0 where a frame
        does not follow the one before it; frames with `prev_exists` [B] continue the batch before.
        `targets` has one dict per stream, or for clips a list of T or the dict of the last frame.
        """
        pixels, last = self._last_frame(batch)
        follows = last.get("prev_exists") is not None and "state" not in last
        if follows and self.training_state is not None:
            kept = self.training_state
            last["state"] = kept if len(kept.exists) == len(pixels) else None
        output, state = self(pixels, **last)
        if follows:
            self.training_state = state
        targets = [each[-1] if isinstance(each, Sequence) else each for each in batch["targets"]]
        losses: dict[str, Tensor] = self.pts_bbox_head.loss(output, targets)
        return losses

    def _last_frame(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The images of the last frames, and the further arguments of forward."""
        pixels, size = self.pixels_of(batch), batch.get("image_size")
        given = {"lidar2img": batch["lidar2img"], "can_bus": can_bus_in(batch)}
        if batch.get("prev_exists") is not None:
            given["prev_exists"] = batch["prev_exists"]
        if pixels.dim() == 5:
            return pixels, {**given, "image_size": size}
        state, T = self.initial_state(len(pixels)), pixels.shape[1]
        frames = [
            {name: None if each is None else each[:, t] for name, each in given.items()}
            for t in range(T)
        ]
        with learning(self, False):
            for t, frame in enumerate(frames[:-1]):
                state = self._follow(pixels[:, t], frame, size, state)
        return pixels[:, -1], {**frames[-1], "image_size": size, "state": state}

    def _follow(
        self, pixels: Tensor, frame: Mapping[str, Any], size: Any, state: BEVState
    ) -> BEVState:
        can_bus = self._checked(frame["can_bus"], len(pixels))
        if frame.get("prev_exists") is not None:
            state = state._replace(exists=state.exists * frame["prev_exists"].to(state.exists))
        return self.see(pixels, frame["lidar2img"], size, can_bus, state)

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: ImageSize, can_bus: Tensor
    ) -> dict[str, Tensor]:
        """The bird's-eye view of a first frame, and where its queries read; inspect_bevformer."""
        return inspect_bevformer(self, pixels, lidar2img, image_size, can_bus)

    def predict(self, batch: Mapping[str, Any]) -> list[Detections3D]:
        """Detections of single frames [B, N, ...], or of the last frames of clips."""
        found = []
        for one in self._apart(batch):
            pixels, last = self._last_frame(one)
            output, _ = self(pixels, **last)
            found += self.pts_bbox_head.predict(output)
        return found

    def predict_frame(
        self, batch: Mapping[str, Any], state: BEVState
    ) -> tuple[list[Detections3D], BEVState]:
        """Detections of the next frame of every stream, and the state after it."""
        found, states = [], []
        for b, one in enumerate(self._apart(batch)):
            pixels, frame = self._last_frame(one)
            own = BEVState(*(part[b : b + 1] for part in state))
            output, after = self(pixels, **frame, state=own)
            found += self.pts_bbox_head.predict(output)
            states.append(after)
        return found, BEVState(*(torch.cat(parts) for parts in zip(*states, strict=True)))

    @staticmethod
    def _apart(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The samples of a batch one by one: in a batch the model mixes them, as the original."""
        size = batch.get("image_size")
        for b in range(len(batch["lidar2img"])):
            own = {name: each[b : b + 1] for name, each in batch.items() if torch.is_tensor(each)}
            yield {**own, "image_size": size}


def can_bus_in(batch: Mapping[str, Any]) -> Tensor | None:
    """The batch's can_bus [..., 18], or what its ego_pose [..., 4, 4] tells; None without both."""
    if batch.get("can_bus") is not None or batch.get("ego_pose") is None:
        return batch.get("can_bus")
    poses = batch["ego_pose"].detach().double().cpu()
    rows = [can_bus_of_lidar(pose.numpy()) for pose in poses.reshape(-1, 4, 4)]
    made = torch.from_numpy(np.stack(rows)).view(*poses.shape[:-2], CAN_BUS)
    return made.to(batch["ego_pose"].device)


def next_state(bev: Tensor, can_bus: Tensor) -> BEVState:
    """The state after a frame with the view [B, K, C] and the measurements [B, 18]."""
    exists = torch.ones_like(bev[:, 0, 0])
    return BEVState(bev.detach(), can_bus[:, :3], can_bus[:, DEGREES], exists)
