"""A rank that dies or hangs ends its group with an error that names it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cupola.parallel import GroupError, Mesh, all_reduce
from ranks import CONTEXT, free_port

pytestmark = pytest.mark.processes
TIMEOUT = 4.0


def rank_of(rank: int, port: int, how: str, folder: Path) -> None:
    torch.set_num_threads(1)
    mesh = Mesh.start(
        tensor=3,
        timeout=TIMEOUT,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=3,
    )
    all_reduce(torch.ones(1), mesh.tensor)
    if rank == 2 and how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 2 and how == "hangs":
        time.sleep(4 * TIMEOUT)
        os._exit(0)
    try:
        all_reduce(torch.ones(1), mesh.tensor)
        said = "no error"
    except GroupError as error:
        said = str(error)
    (folder / f"{rank}.txt").write_text(said)
    if rank == 0:
        time.sleep(TIMEOUT)  # it has the store from which the others read
    os._exit(0)


@pytest.mark.parametrize(
    ("how", "cause"),
    [("dies", "rank 2 is dead or stopped"), ("hangs", "rank 2 did not join")],
)
def test_the_missing_rank_is_named(how: str, cause: str, tmp_path: Path) -> None:
    port = free_port()
    processes = [
        CONTEXT.Process(target=rank_of, args=(rank, port, how, tmp_path)) for rank in range(3)
    ]
    start = time.monotonic()
    for process in processes:
        process.start()
    for process in processes[:2]:
        process.join(30)
    assert time.monotonic() - start < 30
    processes[2].kill()
    processes[2].join()
    for rank in range(2):
        said = (tmp_path / f"{rank}.txt").read_text()
        head = f"all_reduce over the tensor ranks [0, 1, 2] failed on rank {rank}: "
        assert said.startswith(head), said
        assert cause in said


ENDS_WITHOUT_STOP = """
import sys, torch
from cupola.parallel import Mesh, all_reduce, watch
watch.INTERVAL = 0.0  # so that its thread is nearly always in the store
rank, port = map(int, sys.argv[1:])
where = f"tcp://127.0.0.1:{port}"
mesh = Mesh.start(tensor=2, timeout=20, init_method=where, rank=rank, world_size=2)
assert float(all_reduce(torch.ones(1), mesh.tensor)) == 2
"""


def test_a_program_may_end_without_stopping_its_mesh() -> None:
    port = str(free_port())
    command = [sys.executable, "-c", ENDS_WITHOUT_STOP]
    ranks = [subprocess.Popen([*command, rank, port], stderr=subprocess.PIPE) for rank in "01"]
    said = [rank.communicate(timeout=60)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
