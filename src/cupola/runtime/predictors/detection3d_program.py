"""What an export of a multi-camera detector writes: its last layer, and the state of streams."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.runtime.export import Program
from cupola.runtime.predictors.detection3d import Detection3DPredictor
from cupola.structures.can_bus import CAN_BUS


class LastLayer(torch.nn.Module):
    """pixels [B, N, 3, H, W], lidar2img [B, N, 4, 4] -> logits [B, Q, C], codes [B, Q, 10]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, lidar2img: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(pixels, lidar2img, (pixels.shape[-2], pixels.shape[-1]))
        return output.logits[-1], output.boxes[-1]


class NextFrame(torch.nn.Module):
    """One frame and the tensors of a state -> those of last_layer, and of the next state.

    `motion` names the inputs after lidar2img; the state is of the class of `example`.
    """

    def __init__(self, model: torch.nn.Module, motion: tuple[str, ...], example: Any) -> None:
        super().__init__()
        self.model = model
        self.motion = motion
        self.state = type(example)

    def forward(self, pixels: Tensor, lidar2img: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        motion = dict(zip(self.motion, rest, strict=False))
        state = self.state(*rest[len(self.motion) :])
        output, state = self.model(pixels, lidar2img, **motion, state=state)
        return (*last_layer(output).values(), *state)


def last_layer(output: Any) -> dict[str, Tensor]:
    """logits and boxes of the last layer; of Sparse4D also quality, and tracks."""
    found = {name: value for name, value in output._asdict().items() if value is not None}
    return {name: each if name == "tracks" else each[-1] for name, each in found.items()}


def program(predictor: Detection3DPredictor, size: tuple[int, int] | None) -> Program:
    """What an export writes; `size` is (height, width), by default the predictor's."""
    height, width = (-(-s // predictor.divisor) * predictor.divisor for s in size or predictor.size)
    cameras = predictor.cameras
    pixels = torch.zeros(2, cameras, 3, height, width)
    matrices = torch.eye(4).repeat(2, cameras, 1, 1)
    if predictor.is_stream:
        return _stream_program(predictor, pixels[:1], matrices[:1])
    return Program(
        LastLayer(nn.to_torch(predictor.model)),
        (pixels, matrices),
        ("pixels", "lidar2img"),
        ("logits", "boxes"),
        ({0: "batch", 3: "height", 4: "width"}, {0: "batch"}),
    )


def _stream_program(predictor: Detection3DPredictor, pixels: Tensor, lidar2img: Tensor) -> Program:
    """One stream of a fixed image size; the state is in inputs state_NAME, outputs next_NAME."""
    model = predictor.model
    motion = {
        "intrinsics": lidar2img.clone(),
        "extrinsics": lidar2img.clone(),
        "ego_pose": torch.eye(4, dtype=torch.float64)[None],
        "timestamp": torch.ones(1, dtype=torch.float64),
        "can_bus": torch.ones(1, CAN_BUS, dtype=torch.float64),
    }
    names = tuple(model.stream_inputs)
    given = {name: motion[name] for name in names}
    with torch.no_grad():
        output, state = model(pixels, lidar2img, **given, state=model.initial_state(1))
    if not all(isinstance(each, Tensor) for each in state):
        raise InputError(f"the state of {type(model).__name__} cannot be exported")
    fields = tuple(state._fields)
    return Program(
        NextFrame(nn.to_torch(model), names, state),
        (pixels, lidar2img, *given.values(), *state),
        ("pixels", "lidar2img", *names, *(f"state_{name}" for name in fields)),
        (*last_layer(output), *(f"next_{name}" for name in fields)),
    )
