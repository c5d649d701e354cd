"""The end of a run: its best weights become a bundle.

`bundle` in a training config holds what config.json needs besides the model: name, task,
preprocess, labels, licence, ..., a `description` for the card, and perhaps `examples`, the config
of a dataset whose `write_examples(folder)` records some.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cupola.bundles import Bundle, write_bundle
from cupola.registry import DATASETS
from cupola.train.checkpoints import BEST, load_checkpoint
from cupola.train.trainer import Trainer


def bundle_run(trainer: Trainer) -> Bundle:
    """Writes `work_dir/NAME` from best.pth (else the last state) and returns the bundle.

    The weights are the moving average where the run keeps one.
    """
    about = dict(trainer.cfg["bundle"])
    description, examples = about.pop("description", ""), about.pop("examples", None)
    best = trainer.work_dir / BEST
    if best.is_file():
        trainer.load_state_dict(load_checkpoint(best))
    metrics = metrics_at(trainer.work_dir / "log.jsonl", trainer.step)
    config = {"version": "1", **about, "model": trainer.cfg["model"], "metrics": metrics}
    with trainer.average.in_place() if trainer.average else nullcontext():
        state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    card = card_of(about["name"], description, metrics, trainer.step)
    bundle = write_bundle(trainer.work_dir / about["name"], config, state, card)
    if examples:
        DATASETS.build(examples).write_examples(bundle.path / "example")
    return bundle


def metrics_at(log: Path, step: int) -> dict[str, float]:
    """What the validation at `step` found, from the run's log; empty without one."""
    lines = log.read_text().splitlines() if log.is_file() else []
    for entry in map(json.loads, reversed(lines)):
        if entry["kind"] == "val" and entry["step"] == step:
            return {key: value for key, value in entry.items() if key not in ("kind", "step")}
    return {}


def card_of(name: str, description: str, metrics: dict[str, Any], steps: int) -> str:
    """The card: what the model is, and what it reached."""
    rows = "".join(f"| {key} | {value:.4g} |\n" for key, value in metrics.items())
    table = f"\n| measure | value |\n|---|---|\n{rows}" if rows else ""
    return f"# {name}\n\n{description}\n\nTrained for {steps} steps.\n{table}"
