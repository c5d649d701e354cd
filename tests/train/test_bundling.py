"""A run of a few steps ends in a bundle that forecasts."""

import json
from pathlib import Path

import torch

from cupola.runtime import Predictor
from cupola.runtime.predictors.forecast import ForecastPredictor
from cupola.train.recipe import train_recipe

CONFIG = """
flow = dict(type="NavierStokes", size=16, snapshots=5, interval=0.1, spin_up=0.2, count=1)
model = dict(type="FNO", modes=4, width=4, depth=1, projection=8)
train_dataloader = dict(batch_size=2, dataset=dict(flow))
val_dataloader = dict(batch_size=2, dataset=dict(flow, seed=1, steps=2))
val_evaluator = dict(type="ForecastMetric")
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-2))
train_cfg = dict(max_iters=4, val_interval=2)
ema = dict(decay=0.5)
default_hooks = dict(checkpoint=dict(save_best="relative_l2", rule="less"))
bundle = dict(
    name="toy-flow",
    task="forecast",
    description="A toy.",
    preprocess=dict(
        channels=["vorticity"],
        mean=[0.0],
        std=[1.0],
        grid=dict(kind="torus", size=[16, 16]),
        interval=0.1,
        interval_unit="time units",
    ),
    examples=dict(flow, seed=2),
)
"""


def test_a_run_writes_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(CONFIG)
    train_recipe(str(tmp_path / "toy.py"), work_dir=tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "toy-flow"
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["type"] == "FNO"
    assert "relative_l2" in config["metrics"]
    assert "| metric: relative_l2 |" in (folder / "card.md").read_text()
    predictor = Predictor.load(folder)
    assert isinstance(predictor, ForecastPredictor)
    run = predictor.example(0)
    assert run.shape == (5, 1, 16, 16)
    assert torch.isfinite(predictor(run[0], steps=2).fields).all()
