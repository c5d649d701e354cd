"""A task of a user's own: how bright an image is. Importing it registers the model and the task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupola import nn
from cupola.bundles import Bundle
from cupola.registry import MODELS
from cupola.runtime import Predictor, TensorSpec, tasks
from cupola.runtime.export import Program


@MODELS.register_module()
class Brightness(nn.Module):
    """pixels [B, 3, H, W], 0..1 -> [B], a weighted mean of the channels."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.full((3,), 1 / 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scale * pixels.mean((2, 3)) @ self.weight


class BrightnessPredictor(Predictor):
    """`unit` is what the config of its bundle says."""

    task = "brightness"
    inputs = (TensorSpec("pixels", "UINT8", (-1, -1, -1, 3)),)
    outputs = (TensorSpec("brightness", "FP32", (-1,)),)

    @property
    def unit(self) -> str:
        return str(self.config["preprocess"]["unit"])

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Tensor]:
        pixels = torch.tensor(np.asarray(tensors["pixels"], dtype=np.float32) / 255)
        return list(pixels.permute(0, 3, 1, 2))

    @torch.inference_mode()
    def run(self, samples: Any) -> list[float]:
        return [float(self.model(sample[None])) for sample in samples]

    def encode(self, predictions: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"brightness": np.asarray(predictions, dtype=np.float32)}


class BrightnessTask(tasks.Task):
    """Everything that the commands and the server need to know."""

    name = "brightness"
    models = ("Brightness",)
    page = Path(__file__).parent / "page"
    page_rank = -1

    def predictor(self, bundle: Bundle, model: Any) -> Predictor:
        return BrightnessPredictor(bundle.name, bundle.version, model, bundle.config)

    def bundle_settings(
        self, cfg: Mapping[str, Any], model: dict[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"preprocess": {"unit": cfg["unit"]}}

    def bundle_files(self, checkpoint: Path, options: Mapping[str, Any]) -> dict[str, bytes]:
        return {"unit.txt": b"of white"}

    def read(self, source: Path) -> Any:
        return np.asarray(Image.open(source).convert("RGB"))

    def predict(self, predictor: Any, content: Any, threshold: float | None) -> tasks.Answer:
        (value,) = predictor.run(predictor.decode({"pixels": content[None]}, {}))
        cells = [[f"{value:.2f}", predictor.unit]]
        gray = round(255 * value)
        return tasks.Answer(
            [{"brightness": value}],
            ("brightness", "unit"),
            cells,
            lambda: Image.new("L", (8, 8), gray),
        )

    def evaluate(self, predictor: Any, data: Path, options: Mapping[str, str]) -> dict[str, float]:
        values = [self.predict(predictor, self.read(path), None) for path in data.glob("*.png")]
        return {"mean": float(np.mean([value.rows[0]["brightness"] for value in values]))}

    def program(self, predictor: Any, size: tuple[int, int] | None) -> Program:
        example = (torch.zeros(1, 3, *(size or (8, 8))),)
        return Program(nn.to_torch(predictor.model), example, ("pixels",), ("brightness",))


tasks.register(BrightnessTask())
