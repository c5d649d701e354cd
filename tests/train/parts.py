"""A model, a dataset and a metric so small that a training run takes a second."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.registry import DATASETS, METRICS, MODELS

TRUE_SLOPE = torch.tensor([[1.0], [-2.0], [0.5]])


@MODELS.register_module()
class TinyRegression(nn.Module):
    """y = x W + b with dropout, so that a run depends on the random state."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.backbone(x).tanh()))

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        error = self(batch["x"]) - batch["y"]
        return {"loss": error.square().mean(), "error": error.abs().mean()}

    def predict(self, batch: dict[str, Any]) -> list[Tensor]:
        return list(self(batch["x"]))


@DATASETS.register_module()
class TinyLine:
    def __init__(self, count: int = 64, noise: float = 0.0, pause: float = 0.0) -> None:
        self.count, self.noise, self.pause = count, noise, pause

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.pause:
            import time

            time.sleep(self.pause)
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(3, generator=generator)
        return {"x": x, "y": x @ TRUE_SLOPE + self.noise * torch.randn(1, generator=generator)}

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


@METRICS.register_module()
class TinyError:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.errors: list[float] = []

    def update(self, batch: dict[str, Any], predictions: list[Tensor]) -> None:
        pairs = zip(predictions, batch["y"], strict=True)
        self.errors += [float((found - wanted).abs()) for found, wanted in pairs]

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.errors) / len(self.errors)}


def tiny_config(**changes: Any) -> dict[str, Any]:
    data = {"batch_size": 8, "dataset": {"type": "TinyLine"}}
    return {
        "model": {"type": "TinyRegression"},
        "train_dataloader": data,
        "val_dataloader": data,
        "val_evaluator": {"type": "TinyError"},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "lr": 0.02, "weight_decay": 1e-4},
            "clip_grad": {"max_norm": 1.0},
            "paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 0.5}}},
        },
        "param_scheduler": [{"type": "CosineAnnealingLR", "by_epoch": False}],
        "train_cfg": {"max_iters": 60, "val_interval": 20},
        "ema": {"decay": 0.9},
        "default_hooks": {
            "logger": {"interval": 7},
            "checkpoint": {"interval": 5, "save_best": "error", "rule": "less"},
        },
        "randomness": {"seed": 3},
        **changes,
    }
