"""StreamPETR: frame after frame of a drive, with a memory of the best queries.

Letters: B streams, T frames, N cameras, L decoder layers, Q queries, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cupola.errors import BuildError, InputError
from cupola.models.detr3d import DETR3DOutput
from cupola.models.detr3d.extraction import learning
from cupola.models.petr.inspection import inspect_attention
from cupola.models.petr.petr import CameraDetector
from cupola.models.stream_petr.camera_targets import camera_targets
from cupola.models.stream_petr.frame import Frame
from cupola.models.stream_petr.memory import StreamState
from cupola.registry import MODELS
from cupola.structures import Detections3D

Targets = Sequence[Mapping[str, Tensor]]


@MODELS.register_module()
class StreamPETR(CameraDetector):
    """`state = model.initial_state()`, then `output, state = model(..., state)` for each frame.

    In training a batch may hold the next frame of every stream, with `prev_exists`: the state is
    kept in `training_state` from batch to batch. Or it holds clips of T frames: the first ones are
    seen in eval mode without gradients, the last `num_frame_losses` have losses. `img_roi_head`
    adds 2-D losses in training, whose truth are the projected boxes. Sources: StreamPETR (arXiv
    2303.11926); its petr3d.py.
    """

    stream_inputs: tuple[str, ...] = ("intrinsics", "ego_pose", "timestamp")
    engine_method = "extract"  # the state of a stream is no result of a graph

    def __init__(
        self,
        *args: Any,
        img_roi_head: Mapping[str, Any] | None = None,
        num_frame_head_grads: int = 2,
        num_frame_backbone_grads: int = 2,
        num_frame_losses: int = 2,
        stride: Any = 16,
        position_level: Any = 0,
        aux_2d_only: bool = True,
        single_test: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.num_frame_head_grads = num_frame_head_grads
        self.num_frame_backbone_grads = num_frame_backbone_grads
        self.num_frame_losses = num_frame_losses
        self.position_level = position_level
        if not aux_2d_only:
            raise ValueError(
                f"{type(self).__name__}: aux_2d_only=False (tokens chosen by the 2-D head) is not "
                "supported; set it to True"
            )
        self.img_roi_head = MODELS.build(img_roi_head) if img_roi_head else None
        if img_roi_head and not hasattr(self.img_roi_head, "camera_losses"):
            raise BuildError(
                f"img_roi_head is a {type(self.img_roi_head).__name__}, expected FocalHead or "
                "YOLOXHeadCustom"
            )
        self.training_state: StreamState | None = None

    def initial_state(self, batch: int = 1) -> StreamState:
        """The state before the first frame of `batch` streams."""
        state: StreamState = self.pts_bbox_head.initial_state(batch)
        return state

    def frame(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        intrinsics: Tensor | None,
        ego_pose: Tensor | None,
        timestamp: Tensor | None,
        extrinsics: Tensor | None = None,
    ) -> Frame:
        """Checks the calibration and the pose of one moment."""
        given = {
            "lidar2img": lidar2img,
            "intrinsics": intrinsics,
            "ego_pose": ego_pose,
            "timestamp": timestamp,
            "extrinsics": extrinsics,
        }
        B, N = pixels.shape[:2]
        per_camera: tuple[int, ...] = (B, N, 4, 4)
        shapes = dict.fromkeys(("lidar2img", "intrinsics", "extrinsics"), per_camera)
        shapes |= {"ego_pose": (B, 4, 4), "timestamp": (B,)}
        for name in ("lidar2img", *self.stream_inputs):
            value, shape = given[name], shapes[name]
            if value is None or value.shape != shape:
                got = "nothing" if value is None else list(value.shape)
                raise InputError(f"a frame of a stream needs {name} {list(shape)}, got {got}")
        assert intrinsics is not None and ego_pose is not None and timestamp is not None
        H, W = pixels.shape[-2:]
        return Frame(lidar2img, intrinsics, ego_pose, timestamp.double(), (H, W), extrinsics)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The maps that the head reads, each [B, N, channels, h, w]."""
        return [self.extract(pixels)[self.position_level]]

    def forward(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        intrinsics: Tensor | None = None,
        ego_pose: Tensor | None = None,
        timestamp: Tensor | None = None,
        state: StreamState | None = None,
        prev_exists: Tensor | None = None,
        extrinsics: Tensor | None = None,
    ) -> tuple[DETR3DOutput, StreamState]:
        """One frame of every stream, and their state -> output and next state.

        pixels [B, N, 3, H, W], normalized; lidar2img and intrinsics [B, N, 4, 4] for these images;
        ego_pose [B, 4, 4], lidar to a frame that does not move; timestamp [B], seconds, float64.
        `state` None starts all streams; `prev_exists` [B] with 0 starts single ones.
        Output: logits [L, B, Q, C] and box codes [L, B, Q, 10].
        """
        frame = self.frame(pixels, lidar2img, intrinsics, ego_pose, timestamp, extrinsics)
        state = self._started(state, prev_exists, len(pixels))
        output, state, _ = self.pts_bbox_head(self.features(pixels), frame, state)
        return output, state

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: Any = None, **motion: Tensor
    ) -> dict[str, Tensor]:
        """Where each layer's queries of one first frame looked; see inspect_attention."""
        frame = self.frame(pixels, lidar2img, **{"intrinsics": None, **motion})
        head, levels, state = self.pts_bbox_head, self.features(pixels), self.initial_state(1)
        learned = head.reference_points.weight[None]
        references = head.align(head.recall(frame, state), learned).references[0]
        cells = (levels[0].shape[-2], levels[0].shape[-1])
        return inspect_attention(head, lambda: head(levels, frame, state)[0], cells, references)

    def _started(
        self, state: StreamState | None, prev_exists: Tensor | None, batch: int
    ) -> StreamState:
        state = self.initial_state(batch) if state is None else state
        if prev_exists is None:
            return state
        return state._replace(exists=state.exists * prev_exists.to(state.exists))

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch of frames [B, N, ...] or clips [B, T, N, ...].

        `targets` has one dict per stream, or for clips a list of T of them. In clips `prev_exists`
        [B, T], if given, is 0 where a frame does not follow the one before it. The losses of a clip
        are named frame_0_loss_cls, ... as in the original.
        """
        pixels = self.pixels_of(batch)
        if pixels.dim() == 5:
            frame, state = self._frame_of(pixels, batch), self._kept_state(len(pixels), batch)
            found, state = self._loss(self.features(pixels), frame, state, batch["targets"])
            if "prev_exists" in batch:
                self.training_state = StreamState(*(part.detach() for part in state))
            return found
        return self._clip_losses(pixels, batch)

    def _clip_losses(self, pixels: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of the last frames; those before are seen in eval mode, as in the original."""
        T, follows = pixels.shape[1], batch.get("prev_exists")
        state, losses = self.initial_state(len(pixels)), {}
        for t in range(T):
            one = {key: batch[key][:, t] for key in ("lidar2img", *self.stream_inputs)}
            frame = self._frame_of(pixels[:, t], one)
            state = self._started(state, None if follows is None else follows[:, t], len(pixels))
            with learning(self, t >= T - self.num_frame_backbone_grads):
                levels = self.features(pixels[:, t])
            if t < T - max(self.num_frame_losses, self.num_frame_head_grads):
                with learning(self, False):
                    _, state, _ = self.pts_bbox_head(levels, frame, state)
                continue
            targets = [each[t] for each in batch["targets"]]
            found, state = self._loss(levels, frame, state, targets)
            if t >= T - self.num_frame_losses:
                losses.update({f"frame_{t}_{name}": value for name, value in found.items()})
        return losses

    def _kept_state(self, streams: int, batch: Mapping[str, Any]) -> StreamState:
        """The state after the last training batch, if this one continues it."""
        kept = self.training_state
        if "prev_exists" not in batch or kept is None or len(kept.exists) != streams:
            return self.initial_state(streams)
        return self._started(kept, batch["prev_exists"], streams)

    def _loss(
        self, levels: list[Tensor], frame: Frame, state: StreamState, targets: Targets
    ) -> tuple[dict[str, Tensor], StreamState]:
        output, state, denoised = self.pts_bbox_head(levels, frame, state, targets)
        losses: dict[str, Tensor] = self.pts_bbox_head.stream_loss(output, denoised, targets)
        if self.img_roi_head is not None:
            seen = camera_targets(targets, frame.lidar2img, frame.image_size)
            losses |= self.img_roi_head.camera_losses(levels, seen, frame.image_size)
        return losses, state

    def _frame_of(self, pixels: Tensor, batch: Mapping[str, Any]) -> Frame:
        return self.frame(
            pixels,
            batch["lidar2img"],
            *(batch.get(name) for name in ("intrinsics", "ego_pose", "timestamp", "extrinsics")),
        )

    def predict_frame(
        self, batch: Mapping[str, Any], state: StreamState
    ) -> tuple[list[Detections3D], StreamState]:
        """Detections of the next frame of every stream, and the state after it."""
        pixels = self.pixels_of(batch)
        frame = self._frame_of(pixels, batch)
        output, state, _ = self.pts_bbox_head(self.features(pixels), frame, state)
        return self.pts_bbox_head.predict(output), state
