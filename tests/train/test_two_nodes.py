"""Training on two nodes, which are two agents of torchrun on this machine: a killed rank makes all
start again from the last checkpoint, and the curve stays that of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from cupola.errors import CheckpointError
from cupola.train.distributed import TrainingRanks, check_same_step
from cupola.train.recipe import train_recipe
from ranks import RankPool, free_port, until
from train.test_training_ranks import curve, write_config

STEPS = 60


class Nodes:
    """Two agents with `ranks` processes each, which find each other by a rendezvous."""

    def __init__(self, config: Path, ranks: int, work_dir: Path, *more: str) -> None:
        self.work_dir = work_dir
        self.log = (work_dir.parent / "nodes.log").open("w")
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        command += [f"--nproc-per-node={ranks}", "--max-restarts=2", "--rdzv-backend=c10d"]
        command += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
        command += ["--local-addr=127.0.0.1", "-m", "cupola", "train", str(config), "--resume"]
        command += ["--quiet", "--work-dir", str(work_dir), *more]
        # A new store for each start: in a shared one the agent whose rank did not die counts no
        # restart, so that its ranks look for the others under the keys of the first start.
        environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.agents = [
            subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
            for _ in range(2)
        ]

    def ranks(self, agent: int) -> list[psutil.Process]:
        found = psutil.Process(self.agents[agent].pid).children(recursive=True)
        return [each for each in found if "cupola" in each.cmdline()]

    def close(self) -> None:
        for agent in filter(lambda agent: agent.poll() is None, self.agents):
            for process in psutil.Process(agent.pid).children(recursive=True):
                process.kill()
            agent.kill()
            agent.wait()
        self.log.close()


def steps_done(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_text().count('"train"') if log.is_file() else 0


def kill_one_rank(nodes: Nodes) -> None:
    """Kills a rank of the second node after some steps, and waits for the end of the training."""
    folder = nodes.work_dir
    try:
        until(lambda: steps_done(folder) > 15, 120, "some steps")
        os.kill(nodes.ranks(1)[-1].pid, signal.SIGKILL)
        codes = [agent.wait(1500) for agent in nodes.agents]
    finally:
        nodes.close()
    said = (folder.parent / "nodes.log").read_text()
    assert codes == [0, 0], said[-3000:]
    assert "exitcode: -9" in said, said[-3000:]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_killed_rank_of_two_nodes(tmp_path: Path, tensor: int) -> None:
    config = write_config(tmp_path, STEPS)
    train_recipe(str(config), work_dir=tmp_path / "one", quiet=True)
    sets = [f"parallel.tensor={tensor}", "train_dataloader.batch_size=2"]
    options = [word for each in sets for word in ("--set", each)]
    kill_one_rank(Nodes(config, tensor, tmp_path / "two", *options))
    (one, one_end), (two, two_end) = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert two_end == pytest.approx(one_end, rel=1e-4)


def resumed(mesh: Any, apart: bool) -> str:
    ranks = TrainingRanks(mesh.data, mesh.model)
    first = mesh.data.rank == 0 and mesh.model.rank == 0
    try:
        check_same_step(40 if first or not apart else 20, ranks)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_ranks_that_resume_at_different_steps_stop(ranks: RankPool) -> None:
    check_same_step(3, TrainingRanks())
    assert set(ranks.run(resumed, False, tensor=2)) == {""}
    first, *others = ranks.run(resumed, True, tensor=2)
    assert first == ""
    assert all("resumes at step 20, and the first rank at 40" in each for each in others)
