"""Complete, killed and resumed runs, and runs with two ranks."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.errors import BuildError, CheckpointError
from cupola.parallel import SINGLE, Group
from cupola.train import Trainer
from cupola.train.checkpoints import BEST, LATEST, load_checkpoint, save_atomically
from cupola.train.distributed import TrainingRanks
from cupola.train.initial import load_initial_weights
from cupola.train.logs import LOG, read_log
from train.parts import TinyRegression, tiny_config

TESTS = Path(__file__).parent.parent


def curve(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "time"} for entry in read_log(folder)]


def weights(folder: Path, name: str = LATEST) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(folder / name)["model"]
    return model


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cupola", "train", *more, "--plugin", "train.parts"]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def test_a_run_learns_and_reports(tmp_path: Path) -> None:
    metrics = Trainer(tiny_config(), tmp_path, quiet=True).run()
    entries = read_log(tmp_path)
    losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert [e["step"] for e in entries if e["kind"] == "val"] == [20, 40, 60]
    assert metrics["error"] < 1.0
    assert load_checkpoint(tmp_path / BEST)["step"] == 60
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_failing_validation_loses_no_step(tmp_path: Path, monkeypatch: Any) -> None:
    """The checkpoint is saved before it; a resumed run begins with the validation."""
    Trainer(tiny_config(), tmp_path / "whole", quiet=True).run()
    broken = Trainer(tiny_config(), tmp_path / "part", quiet=True)
    monkeypatch.setattr(broken, "_validate", lambda log: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken.run()
    assert load_checkpoint(tmp_path / "part" / LATEST)["step"] == 20
    Trainer(tiny_config(), tmp_path / "part", quiet=True).run(resume=True)
    assert curve(tmp_path / "part") == curve(tmp_path / "whole")
    whole, part = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_batches_whose_gradients_are_summed_count_as_steps(tmp_path: Path) -> None:
    """As in MMEngine: epochs stay as long, and schedules, logs and validations count batches."""
    cfg = tiny_config(train_cfg={"max_epochs": 2, "val_interval": 1}, default_hooks={
        "logger": {"interval": 7}, "checkpoint": {"interval": 1}})  # fmt: skip
    cfg["optim_wrapper"]["accumulative_counts"] = 3
    trainer = Trainer(cfg, tmp_path / "whole", quiet=True)
    counts, rates, step = [], [], trainer.stepper.step

    def recorded(batches: Any, count: int) -> Any:
        counts.append(count)
        rates.append(trainer.optimizer.param_groups[1]["lr"])
        return step(batches, count)

    trainer.stepper.step = recorded  # type: ignore[method-assign]
    trainer.run()
    assert counts == [3, 3, 3, 3, 3, 1] and trainer.average._seen == 16  # 8 batches in an epoch
    cosine = [0.01 * (1 + math.cos(math.pi * n / 16)) for n in (2, 5, 8, 11, 14, 15)]
    assert rates == pytest.approx(cosine)
    logged = [(each["kind"], each["step"]) for each in read_log(tmp_path / "whole")]
    assert logged == [("train", 9), ("val", 9), ("train", 15), ("train", 16), ("val", 16)]
    part = Trainer(cfg, tmp_path / "part", quiet=True)
    part._report = lambda log, rate: 1 / (part.step < 15)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        part.run()
    Trainer(cfg, tmp_path / "part", quiet=True).run(resume=True)  # from step 9
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "part")[name]), name


def test_a_run_stopped_at_any_step_resumes_exactly(tmp_path: Path) -> None:
    Trainer(tiny_config(), tmp_path / "whole", quiet=True).run()
    part = Trainer(tiny_config(), tmp_path / "part", quiet=True)
    taken, step = 0, part.stepper.step

    def stop_at_33(*given: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > 33:
            raise KeyboardInterrupt
        return step(*given)

    part.stepper.step = stop_at_33  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        part.run()
    torch.rand(17)  # the resumed process starts from other random numbers
    Trainer(tiny_config(), tmp_path / "part", quiet=True).run(resume=True)
    assert curve(tmp_path / "part") == curve(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "part")[name]), name


@pytest.mark.slow  # test_a_run_stopped_at_any_step_resumes_exactly is the fast one
@pytest.mark.processes
def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    cfg = tiny_config()
    cfg["train_dataloader"] = {"batch_size": 8, "dataset": {"type": "TinyLine", "pause": 0.004}}
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(cfg))
    run = command(tmp_path, str(config), "--work-dir", str(tmp_path / "run"))
    process = subprocess.Popen(run, env=environment(), stderr=subprocess.PIPE)
    log = tmp_path / "run" / LOG
    deadline = time.monotonic() + 90
    while not (log.is_file() and '"step": 21' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stopped = load_checkpoint(tmp_path / "run" / LATEST)["step"]
    assert 20 <= stopped < 60
    subprocess.run([*run, "--resume", "--quiet"], env=environment(), check=True, timeout=90)
    Trainer(cfg, tmp_path / "whole", quiet=True).run()
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_a_checkpoint_is_complete_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LATEST
    save_atomically({"step": 1}, path)

    def break_off(state: object, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"step": 2}, path)
    assert load_checkpoint(path)["step"] == 1
    monkeypatch.undo()
    (tmp_path / f".{LATEST}.1").write_bytes(b"of a process that was killed")
    save_atomically({"step": 3}, path)
    assert [file.name for file in tmp_path.iterdir()] == [LATEST]


def test_files_that_are_not_checkpoints_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match=r"noise\.pth: not accepted as a checkpoint"):
        load_checkpoint(tmp_path / "noise.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="use load_from"):
        load_checkpoint(tmp_path / "plain.pth")


def test_load_from_can_load_a_part(tmp_path: Path) -> None:
    Trainer(tiny_config(), tmp_path, quiet=True).run()
    model = TinyRegression()
    head = model.head.weight.detach().clone()
    said = load_initial_weights(model, {"path": str(tmp_path / LATEST), "prefix": "backbone"})
    assert said.startswith("loaded 2 of 4 tensors")
    assert torch.equal(model.backbone.weight, weights(tmp_path)["backbone.weight"])
    assert torch.equal(model.head.weight, head)
    with pytest.raises(CheckpointError, match="does not fit below 'neck'"):
        load_initial_weights(model, {"path": str(tmp_path / LATEST), "prefix": "neck"})


def test_errors_of_a_training_config(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="max_iters or max_epochs"):
        Trainer(tiny_config(train_cfg={}), tmp_path, quiet=True)
    hooks = {"checkpoint": {"save_best": "AP"}}
    with pytest.raises(BuildError, match=r"no metric 'AP'; the metrics are \['error'\]"):
        Trainer(tiny_config(default_hooks=hooks), tmp_path, quiet=True).run()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    cfg = tiny_config()
    cfg["train_dataloader"] = {
        "batch_size": 8,
        "dataset": {"type": "TinyLine", "noise": float("inf")},
    }
    with pytest.raises(FloatingPointError, match=r"the loss is (inf|nan) at step 7"):
        Trainer(cfg, tmp_path, quiet=True).run()


def test_modules_get_the_data_parallel_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Group("data", (0,), 0)
    monkeypatch.setattr(TinyRegression, "data_group", SINGLE, raising=False)
    monkeypatch.setattr("cupola.train.trainer.join_ranks", lambda *layout: TrainingRanks(data))
    assert Trainer(tiny_config(), tmp_path, quiet=True).model.data_group is data


@pytest.mark.slow
@pytest.mark.processes
def test_two_ranks_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    cfg = tiny_config(model={"type": "TinyRegression", "dropout": 0.0}, ema=None)
    cfg["train_dataloader"] = {"batch_size": 4, "dataset": {"type": "TinyLine"}}
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(cfg))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = command(tmp_path, str(config), "--work-dir", str(tmp_path / "two"), "--quiet")
    subprocess.run([*launch, *run[1:]], env=environment(), check=True, timeout=120)
    cfg["train_dataloader"] = {"batch_size": 8, "dataset": {"type": "TinyLine"}}
    Trainer(cfg, tmp_path / "one", quiet=True).run()
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(value, weights(tmp_path / "two")[name], msg=name)
