"""Writes the best weights of a run as a bundle.

`bundle` in a training config holds what config.json needs besides the model: name, task,
preprocess, labels, license, ..., a `description` for the card, `model` with differences from the
trained model's config (parts that only training has), and optionally `examples`, the config of a
dataset whose `write_examples(folder)` writes some. A dataset's `add_to_bundle(folder)` adds other
files that inference needs (a tokenizer). With a `test_dataloader` the weights are evaluated once
more, on data that was not used to select the checkpoint.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from cupola.bundles import Bundle, write_bundle
from cupola.errors import CheckpointError
from cupola.registry import DATASETS, build
from cupola.train.checkpoints import BEST, LATEST, load_checkpoint
from cupola.train.evaluation import build_metric, evaluate
from cupola.train.loading import evaluation_loader
from cupola.train.logs import LOG
from cupola.train.pixels import served_model
from cupola.train.texts import files_for_texts
from cupola.train.trainer import Trainer


def bundle_run(trainer: Trainer) -> Bundle:
    """Writes `work_dir/NAME` from best.pth (else latest.pth) and returns the bundle.

    The weights are the moving average if the run keeps one. The bundle includes the run's log and
    config. Raises CheckpointError if the run has no checkpoint yet.
    """
    about = dict(trainer.cfg["bundle"])
    description, examples = about.pop("description", ""), about.pop("examples", None)
    samples = DATASETS.build(examples) if examples else None
    if "preprocess" not in about and hasattr(trainer.stream.dataset, "preprocess"):
        about["preprocess"] = preprocess_of(trainer.stream.dataset, samples)
    model_cfg = served_model({**trainer.cfg["model"], **about.pop("model", {})})
    found = [p for p in (trainer.work_dir / BEST, trainer.work_dir / LATEST) if p.is_file()]
    if not found:
        raise CheckpointError(f"{trainer.work_dir} has no checkpoint to write a bundle from")
    trainer.load_state_dict(load_checkpoint(found[0]))
    with trainer.average.in_place() if trainer.average else nullcontext():
        state = kept_weights(trainer.model.state_dict(), model_cfg)
        metrics = measure(trainer)
    config = {"version": "1", **about, "model": model_cfg, "metrics": metrics}
    card = card_of(config, description, metrics, trainer)
    bundle = write_bundle(trainer.work_dir / about["name"], config, state, card)
    shutil.copy(trainer.work_dir / LOG, bundle.path / LOG)
    build(model_cfg).build_record.save(bundle.path / "build_record.json")
    (bundle.path / "training.json").write_text(json.dumps(trainer.cfg, indent=1) + "\n")
    (bundle.path / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    if hasattr(trainer.stream.dataset, "add_to_bundle"):
        trainer.stream.dataset.add_to_bundle(bundle.path)
    for name, content in files_for_texts(trainer.model, trainer.cfg.get("load_from")).items():
        (bundle.path / name).write_bytes(content)
    if samples is not None:
        samples.write_examples(bundle.path / "example")
    return bundle


def preprocess_of(dataset: Any, samples: Any) -> dict[str, Any]:
    """What the data say about the model's inputs, with the dates of the examples."""
    found: dict[str, Any] = dict(dataset.preprocess())
    dates = samples.start_dates() if hasattr(samples, "start_dates") else []
    return {**found, **({"example_starts": dates} if dates else {})}


def kept_weights(state: Mapping[str, Tensor], model_cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the weights that a model built from `model_cfg` has."""
    return {name: state[name].clone() for name in build(model_cfg).state_dict()}


def measure(trainer: Trainer) -> dict[str, float]:
    """The metrics on `test_dataloader`, or else those of the validation at this step."""
    if "test_dataloader" not in trainer.cfg:
        return metrics_at(trainer.work_dir / LOG, trainer.step)
    evaluator = trainer.cfg.get("test_evaluator") or trainer.cfg["val_evaluator"]
    batches = evaluation_loader(trainer.cfg["test_dataloader"], evaluator=evaluator)
    metric = build_metric(evaluator)
    return evaluate(trainer.model, batches, metric, trainer.device)


def metrics_at(log: Path, step: int) -> dict[str, float]:
    """The metrics of the validation at `step`, from the run's log; empty if there is none."""
    lines = log.read_text().splitlines() if log.is_file() else []
    for entry in map(json.loads, reversed(lines)):
        if entry["kind"] == "val" and entry["step"] == step:
            return {key: value for key, value in entry.items() if key not in ("kind", "step")}
    return {}


def card_of(
    config: Mapping[str, Any], description: str, metrics: dict[str, float], trainer: Trainer
) -> str:
    """The card: what the model is, how it was trained, and its metrics."""
    rows = {
        "data": f"`{trainer.cfg['train_dataloader']['dataset']['type']}`",
        "recipe": f"`training.json`, {trainer.step} steps; curves in `{LOG}`",
        "license": str(config.get("license", "not stated")),
        "SHA-256 of the weights": "in `config.json`, checked by `cupola verify`",
        **{f"metric: {key}": f"{value:.4g}" for key, value in metrics.items()},
    }
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    return f"# {config['name']}\n\n{description}\n\n| | |\n|---|---|\n{table}"
