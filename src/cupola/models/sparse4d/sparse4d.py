"""Sparse4D: frame after frame of a drive, with instances that are kept and have a track.

Letters: B streams, T frames, N cameras, L refinements, Q instances.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola.errors import BuildError, InputError
from cupola.models.detr3d import GridMask
from cupola.models.detr3d.camera_model import CameraModel
from cupola.models.sparse4d.frame import Frame, InstanceState, Sparse4DOutput
from cupola.models.sparse4d.inspection import inspect_sparse4d
from cupola.registry import MODELS
from cupola.structures import Detections3D


@MODELS.register_module()
class Sparse4D(CameraModel):
    """`state = model.initial_state()`, then `output, state = model(..., state)` for each frame.

    Detections have tracks: the same number for one object in all frames of a stream. Training is
    not included. Sources: Sparse4D v3 (arXiv 2311.11722); sparse4d.py.
    """

    stream_inputs = ("ego_pose", "timestamp")
    engine_method = "extract"  # the state of a stream is no result of a graph
    tracks = True
    no_training = (
        "training Sparse4D is not included: its losses are missing; train it with the original and "
        "bundle the checkpoint, or train StreamPETR"
    )

    def __init__(
        self,
        img_backbone: Mapping[str, Any],
        head: Mapping[str, Any],
        img_neck: Mapping[str, Any] | None = None,
        depth_branch: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        use_grid_mask: bool = True,
        use_deformable_func: bool = False,
        pretrained: str | None = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        if pretrained:
            img_backbone = {**img_backbone, "pretrained": pretrained}
        self.data_preprocessor = MODELS.build(data_preprocessor) if data_preprocessor else None
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck) if img_neck else None
        self.head = MODELS.build(head)
        self.depth_branch = MODELS.build(depth_branch) if depth_branch else None
        self.grid_mask = GridMask(True, True, rotate=1, ratio=0.5, mode=1, prob=0.7)
        self.use_grid_mask = use_grid_mask
        self.head.init_weights()

    def initial_state(self, batch: int = 1) -> InstanceState:
        """The state before the first frame of `batch` streams."""
        state: InstanceState = self.head.initial_state(batch)
        return state

    def frame(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        ego_pose: Tensor | None,
        timestamp: Tensor | None,
    ) -> Frame:
        """Checks the calibration and the pose of one moment."""
        B, N = pixels.shape[:2]
        given = {"lidar2img": lidar2img, "ego_pose": ego_pose, "timestamp": timestamp}
        shapes = {"lidar2img": (B, N, 4, 4), "ego_pose": (B, 4, 4), "timestamp": (B,)}
        for name, value in given.items():
            if value is None or value.shape != shapes[name]:
                got = "nothing" if value is None else list(value.shape)
                raise InputError(
                    f"a frame of a stream needs {name} {list(shapes[name])}, got {got}"
                )
        assert ego_pose is not None and timestamp is not None
        size = (pixels.shape[-2], pixels.shape[-1])
        return Frame(lidar2img, ego_pose.double(), timestamp.double(), size)

    def forward(
        self,
        pixels: Tensor,
        lidar2img: Tensor,
        ego_pose: Tensor | None = None,
        timestamp: Tensor | None = None,
        state: InstanceState | None = None,
        prev_exists: Tensor | None = None,
    ) -> tuple[Sparse4DOutput, InstanceState]:
        """One frame of every stream, and their state -> output and next state.

        pixels [B, N, 3, H, W], normalized; lidar2img [B, N, 4, 4] for these images; ego_pose
        [B, 4, 4], lidar to a frame that does not move; timestamp [B], seconds, float64. `state`
        None starts all streams; `prev_exists` [B] with 0 starts single ones. After more than two
        seconds (max_time_interval) the kept instances are not used, but still looked at.
        """
        frame = self.frame(pixels, lidar2img, ego_pose, timestamp)
        state = self._started(state, prev_exists, len(pixels))
        found: tuple[Sparse4DOutput, InstanceState] = self.head(self.extract(pixels), frame, state)
        return found

    def _started(
        self, state: InstanceState | None, prev_exists: Tensor | None, batch: int
    ) -> InstanceState:
        state = self.initial_state(batch) if state is None else state
        if len(state.exists) != batch:
            raise InputError(f"the state is of {len(state.exists)} streams, the batch of {batch}")
        if prev_exists is None:
            return state
        return state._replace(exists=state.exists * prev_exists.to(state.exists))

    def inspect(
        self, pixels: Tensor, lidar2img: Tensor, image_size: Any = None, **motion: Tensor
    ) -> dict[str, Tensor]:
        """Where each layer's instances of one first frame looked; see inspect_sparse4d."""
        return inspect_sparse4d(self, pixels, self.frame(pixels, lidar2img, **motion))

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Always a BuildError: the losses of Sparse4D are not included."""
        raise BuildError(self.no_training)

    def predict_frame(
        self, batch: Mapping[str, Any], state: InstanceState
    ) -> tuple[list[Detections3D], InstanceState]:
        """Detections of the next frame of every stream, and the state after it."""
        pixels = self.pixels_of(batch)
        given = (batch.get(name) for name in self.stream_inputs)
        output, state = self(pixels, batch["lidar2img"], *given, state=state)
        return self.head.predict(output), state
