"""The training loop."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from cupola.config.old_sections import nuscenes_sections
from cupola.errors import BuildError
from cupola.parallel import broadcast, mean_over_ranks
from cupola.registry import build
from cupola.registry.initialize import init_weights
from cupola.train.averaging import build_average
from cupola.train.checkpoints import (
    BEST,
    LATEST,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_atomically,
    save_gathered,
    save_sharded,
    seed_everything,
)
from cupola.train.distributed import check_same_step, join_ranks, same_start
from cupola.train.evaluation import build_metric, evaluate
from cupola.train.hooks import published_average, published_switches
from cupola.train.initial import load_initial_weights
from cupola.train.intervals import ValidationPlan
from cupola.train.loading import BatchStream, evaluation_loader
from cupola.train.logs import RunLog, forget_after
from cupola.train.meter import Meter
from cupola.train.optimizers import build_optimizer, load_optimizer, set_rates
from cupola.train.pixels import with_pixels
from cupola.train.pretrained import load_pretrained
from cupola.train.schedules import Rates, build_schedule
from cupola.train.sections import (
    check_sections,
    class_counts,
    parallel_layout,
    scaled_rate,
    without_effect,
)
from cupola.train.steps import Stepper, to_device, use_channels_last
from cupola.train.teachers import load_teacher
from cupola.train.texts import use_texts
from cupola.train.version2 import to_version_3


class Trainer:
    """Runs a training config (MMEngine's keys, or those of MMDetection 2.x) in `work_dir`.

    Writes latest.pth and best.pth (both atomically), log.jsonl and tensorboard/. A run is a
    function of the config and the step, so a killed run resumes with identical results; not so with
    train_cfg.max_seconds, which ends a run and its schedules by time.
    """

    def __init__(self, cfg: Mapping[str, Any], work_dir: Path, quiet: bool = False) -> None:
        cfg = to_version_3(nuscenes_sections(cfg))
        check_sections(cfg)
        self.cfg: Mapping[str, Any] = with_pixels(cfg)
        self.work_dir = work_dir
        self.ranks = join_ranks(*parallel_layout(cfg))
        self._quiet = quiet or not self.ranks.first
        seed = int(cfg.get("randomness", {}).get("seed", 0))
        seed_everything(seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if cfg.get("bundle") and self.ranks.model.size > 1:
            raise BuildError(
                "a split model is saved as shards: remove `bundle` or `parallel.tensor`"
            )
        split: dict[str, Any] = {"group": self.ranks.model} if self.ranks.model.size > 1 else {}
        self.model = build(cfg["model"], **split).to(self.device)
        if hasattr(self.model, "no_training"):
            raise BuildError(self.model.no_training)
        for module in self.model.modules():
            if hasattr(module, "data_group"):  # losses that are normalized over the ranks
                module.data_group = self.ranks.data
        # Heads whose losses change with the epoch, such as TOOD's.
        self._by_epoch = [each for each in self.model.modules() if hasattr(each, "epoch")]
        self._by_step = [each for each in self.model.modules() if hasattr(each, "iteration")]
        if cfg.get("channels_last"):
            use_channels_last(self.model)
        self.stream = BatchStream(
            self.cfg["train_dataloader"], seed, self.ranks.rank, self.ranks.count
        )
        use_texts(self.model, self.stream.dataset, cfg.get("load_from"))
        self.max_steps = self._count_steps()
        self.schedules = self._build_schedules()
        self._notes = without_effect(cfg)
        if cfg.get("bundle") and self.ranks.fsdp:
            self._notes.append("no bundle: write it afterwards in one process with --bundle-only")
        if note := class_counts(self.model, self.stream.dataset):
            self._notes.append(note)
        self._prepare_updates()
        self._plan_switches()
        self._validation = ValidationPlan(self.cfg, self.stream.batches_per_epoch, self.max_steps)
        if self._validation.active and self.cfg.get("val_evaluator"):
            build_metric(self.cfg["val_evaluator"])  # an unknown one fails before the training
        self.meter = Meter()
        self.step, self.validated, self.best = 0, 0, float("-inf")
        self.seconds = 0.0  # of training so far
        self._max_seconds = float(self.cfg["train_cfg"].get("max_seconds", 0))

    def _prepare_updates(self) -> None:
        """Makes what refers to the parameters, which are others once the model is sharded."""
        factor = scaled_rate(self.cfg, self.stream.batch_size * self.ranks.data.size)
        self.optimizer = build_optimizer(self.model, self.cfg["optim_wrapper"], factor)
        self.stepper = Stepper(self.model, self.optimizer, self.cfg["optim_wrapper"], self.ranks)
        about = published_average(self.cfg, self.stream.batches_per_epoch)
        self.average = build_average(self.model, about) if about else None

    def _count_steps(self) -> int:
        train_cfg = self.cfg.get("train_cfg", {})
        if "max_iters" in train_cfg:
            return int(train_cfg["max_iters"])
        if "max_epochs" in train_cfg:
            return int(train_cfg["max_epochs"]) * self.stream.batches_per_epoch
        raise BuildError("train_cfg needs max_iters or max_epochs")

    def _plan_switches(self) -> None:
        """Has the stream apply the mode switches of an epoch before it reads its first batch."""
        switches = published_switches(self.cfg, self.max_steps // self.stream.batches_per_epoch)
        pending = sorted(switches, key=lambda each: each.epoch)

        def apply(epoch: int) -> None:
            while pending and epoch >= pending[0].epoch:
                pending.pop(0).apply(self.stream.dataset, self.model)

        self.stream.on_epoch = apply

    def _build_schedules(self) -> Rates:
        found = self.cfg.get("param_scheduler") or []
        configs = [found] if isinstance(found, Mapping) else found
        per_epoch = self.stream.batches_per_epoch
        return Rates([build_schedule(cfg, per_epoch, self.max_steps) for cfg in configs])

    def _hook(self, name: str) -> Mapping[str, Any]:
        hook: Mapping[str, Any] = self.cfg.get("default_hooks", {}).get(name, {})
        return hook

    def _save_every(self) -> int:
        """Steps between checkpoints; an interval counts epochs where the run does, as in MMEngine.

        0 for an interval of -1: only the last step is saved.
        """
        hook = self._hook("checkpoint")
        if "interval" not in hook:
            return 500
        by_epoch = hook.get("by_epoch", "max_iters" not in self.cfg["train_cfg"])
        return max(0, int(hook["interval"])) * (self.stream.batches_per_epoch if by_epoch else 1)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as plain values and tensors."""
        return {
            "step": self.step,
            "validated": self.validated,
            "best": self.best,
            "seconds": self.seconds,
            "model": dict(self.model.state_dict()),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "stepper": self.stepper.state_dict(),
            "meter": self.meter.state_dict(),
            "random": random_state(),
            **self._streams(),
        }

    def _streams(self) -> dict[str, Any]:
        """What a model of streams remembers of the last batch."""
        kept = getattr(self.model, "training_state", None)
        return {} if kept is None else {"streams": list(kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.step, self.best = state["step"], state["best"]
        self.validated = state.get("validated", self.step)
        self.seconds = state.get("seconds", 0.0)
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.stepper.load_state_dict(state["stepper"])
        self.meter.load_state_dict(state["meter"])
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        restore_random_state(state["random"])
        if "streams" in state:
            self.model.training_state = self.model.initial_state()._make(
                to_device(state["streams"], self.device)
            )

    def _begin(self, resume: bool) -> str:
        self._notes += load_teacher(self.model)  # no checkpoint of the student has it
        latest = self.work_dir / self.ranks.file(LATEST)
        if resume and latest.is_file():
            self._shard()
            self.load_state_dict(load_checkpoint(latest, self._like if self.ranks.fsdp else None))
            if self.ranks.first:
                forget_after(self.work_dir, self.step)
            return f"resumed {latest} at step {self.step}"
        said = self._initial_weights()
        self._shard()
        return said

    def _initial_weights(self) -> str:
        if self.ranks.first:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            forget_after(self.work_dir, -1)
        said = "started from random weights"
        init_weights(self.model, lambda *_: None)  # what is Pretrained comes next
        self._notes += load_pretrained(self.model, required=not self.cfg.get("load_from"))
        if self.cfg.get("load_from"):
            said = load_initial_weights(self.model, self.cfg["load_from"])
        same_start(self.model.state_dict().values(), self.ranks)
        if self.average:
            self.average.restart()
        return said

    def _shard(self) -> None:
        if self.ranks.fsdp:
            from cupola.train.sharded import shard  # takes a second to import

            shard(self.model, self.ranks.data, self.device)
            self._prepare_updates()

    def _like(self, path: tuple[Any, ...]) -> Any:
        """The present tensor in place of which one of a training state comes, or None."""
        if path[0] == "model":
            return self.model.state_dict().get(path[1])
        if path[:2] == ("optimizer", "state"):
            groups = self.optimizer.param_groups
            return [each for group in groups for each in group["params"]][path[2]]
        if path[:2] == ("average", "average") and self.average:
            return self.average.tensors[path[2]]
        return None

    def run(self, resume: bool = False) -> dict[str, float]:
        """Trains to the last step; returns the last validation's metrics, empty without one.

        `resume` continues from latest.pth if there is one. Raises CheckpointError if it is damaged,
        and FloatingPointError if the loss is not finite.
        """
        said = self._begin(resume)
        check_same_step(self.step, self.ranks, self.device)
        log = RunLog(self.work_dir, self.max_steps, self.step, self._quiet)
        log.say(f"{said}; steps {self.step} to {self.max_steps} on {self.device}")
        for note in self._notes:
            log.say(note)
        try:
            return self._train(log)
        finally:
            log.close()

    def _train(self, log: RunLog) -> dict[str, float]:
        log_every = int(self._hook("logger").get("interval", 50))
        save_every = self._save_every()
        metrics: dict[str, float] = {}
        batches = self.stream.batches(self.step)
        self.model.train()
        if self._due(self.step - self.stepper.pieces):
            metrics = self._validate(log)  # it was interrupted after the checkpoint was saved
            self._save(LATEST)
        self.meter.restart_clock()
        started = monotonic() - self.seconds
        while self.step < self.max_steps:
            before, count = self.step, min(self.stepper.pieces, self.max_steps - self.step)
            # as in MMEngine, a step is a batch, and the last one of a sum has its rate
            rate = set_rates(self.optimizer, self._position() + count - 1, self.schedules)
            for module in self._by_step:
                module.iteration = before
            for module in self._by_epoch:
                module.epoch = before // self.stream.batches_per_epoch
            for _ in range(count - 1):
                self._averaged()
            self.meter.add(self.stepper.step(batches, count))
            self._averaged()
            self.step += count
            self.seconds = monotonic() - started
            if 0 < self._max_seconds <= self.seconds:
                self.max_steps = self.step
                self._validation.end(self.step)
            last = self.step == self.max_steps
            log.advance(self.step)
            if last or self._passed(log_every, before):
                self._report(log, rate)
            due = self._due(before)
            if last or due or (save_every and self._passed(save_every, before)):
                self._save(LATEST)  # before the validation, which may fail or be killed
            if due:
                metrics = self._validate(log)
                self._save(LATEST)
        return metrics

    def _averaged(self) -> None:
        if self.average:
            self.average.update()

    def _passed(self, interval: int, before: int) -> bool:
        """Whether a multiple of `interval` lies after `before`, up to this step."""
        return self.step // interval > before // interval

    def _due(self, before: int) -> bool:
        """Whether a validation is due after `before`, up to this step."""
        steps = range(max(before, self.validated) + 1, self.step + 1)
        return any(self._validation.is_due(step) for step in steps)

    def _position(self) -> int:
        """The step of the schedules; with max_seconds the share of them that is over, in steps."""
        if not self._max_seconds:
            return self.step
        return max(self.step, int(self.seconds / self._max_seconds * self.max_steps))

    def _report(self, log: RunLog, rate: float) -> None:
        means, seconds = self.meter.take()
        joined = mean_over_ranks(torch.stack([*means.values()]), self.ranks.data)
        values = dict(zip(means, joined.tolist(), strict=True))
        if values["loss"] - values["loss"] != 0:
            raise FloatingPointError(f"the loss is {values['loss']} at step {self.step}")
        if self.ranks.first:
            log.report(self.step, "train", {**values, "lr": rate, "time": seconds})

    def _validate(self, log: RunLog) -> dict[str, float]:
        """Evaluates the model, or its moving average if there is one; saves the best checkpoint."""
        metrics: dict[str, float] = {}
        if self.ranks.leads or self.ranks.fsdp:  # where all ranks take part in a prediction
            batches = evaluation_loader(
                self.cfg["val_dataloader"], evaluator=self.cfg["val_evaluator"]
            )
            metric = build_metric(self.cfg["val_evaluator"])
            with self.average.in_place() if self.average else nullcontext():
                metrics = evaluate(self.model, batches, metric, self.device)
            if self.ranks.fsdp:
                self.model.reshard()
            if self.ranks.first:
                log.report(self.step, "val", metrics)
            self.validated = self.step
            self._keep_best(metrics, getattr(metric, "published_names", {}))
        self.validated = self.step
        self.meter.restart_clock()
        return metrics

    def _keep_best(self, metrics: Mapping[str, float], published: Mapping[str, str]) -> None:
        hook = self._hook("checkpoint")
        name = hook.get("save_best")
        if not name:
            return
        name = next(iter(metrics)) if name == "auto" else published.get(name, name)
        if name not in metrics:
            raise BuildError(
                f"checkpoint.save_best: no metric {name!r}; the metrics are {sorted(metrics)}"
            )
        sign = -1.0 if hook.get("rule") == "less" else 1.0
        value = torch.tensor([sign * metrics[name]], dtype=torch.float64, device=self.device)
        if self.ranks.fsdp:
            broadcast(value, self.ranks.data)  # all ranks save, or none
        if float(value) > self.best:
            self.best = float(value)
            self._save(BEST)

    def _save(self, name: str) -> None:
        path = self.work_dir / self.ranks.file(name)
        if not self.ranks.fsdp:
            if self.ranks.leads:
                save_atomically(self.state_dict(), path)
        elif name == LATEST and self.step < self.max_steps:
            save_sharded(self.state_dict(), path, self.ranks.data)
        else:
            save_gathered(self.state_dict(), path, self.ranks.data)
