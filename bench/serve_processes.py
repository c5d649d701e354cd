"""Time to respawn the server's processes, and their memory.

The model is an untrained AFNO of 420 MB. Run by bench/serve.py.
"""

import argparse
import json
import os
import re
import signal
import statistics
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, until

TIMES = 5
DEPTH = 11  # about 420 MB of float32, slightly more than the aims assume


def big_bundle(folder: Path) -> Path:
    """A forecast bundle with large weights and little computation."""
    import torch

    import cupola
    from cupola.bundles import Bundle

    shipped = Bundle.load("afno-navier-stokes").path
    config = json.loads((shipped / "config.json").read_text())
    config |= {"name": "big", "metrics": {}}
    config["model"] |= {"embed_dim": 1024, "depth": DEPTH, "patch_size": 8}
    model = cupola.build(config["model"])
    size = sum(parameter.nbytes for parameter in model.state_dict().values())
    path = folder / "big"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save(dict(model.state_dict()), path / "weights.safetensors")
    print(f"model: {size / 1e6:.0f} MB, {torch.get_num_threads()} threads")
    return path


def save(tensors: dict[str, object], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)  # type: ignore[attr-defined]


def field_request() -> str:
    """One forecast step of an empty field."""
    data = [0.0] * (32 * 32)
    spec = {"name": "fields", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": data}
    return json.dumps({"inputs": [spec], "parameters": {"steps": 1}})


def killed(server: Running, role: str) -> float:
    """Milliseconds from KILL until the process has been respawned."""
    if role == "worker":
        old = server.pids()[0]
        began = time.perf_counter()
        os.kill(old, signal.SIGKILL)
        until(lambda: any(c["state"] == "ready" and c["pid"] != old for c in server.children()))
    else:
        old = server.runner_pid()
        began = time.perf_counter()
        os.kill(old, signal.SIGKILL)
        until(lambda: server.runner_pid() != old)
    return (time.perf_counter() - began) * 1000


def start(options: argparse.Namespace, folder: Path) -> None:
    """Workers of a no-op model, and runners of the large one, by the zygote's log."""
    server = Running(folder / "small", min_uptime=0.01)
    server.start()
    try:
        server.wait_ready(60)
        workers = [killed(server, "worker") for _ in range(TIMES)]
        print(f"worker respawned: median {statistics.median(workers):.0f} ms (aim <= 60)")
    finally:
        server.stop()
    bundle = big_bundle(folder)
    server = Running(folder / "large", models=[str(bundle)], plugins=[], min_uptime=0.01)
    server.start()
    try:
        server.wait_ready(120)
        for _ in range(TIMES):
            killed(server, "runner")
        ready = [int(ms) for ms in re.findall(r"is ready after (\d+) ms", server.log())]
        print(f"runner with 420 MB ready: first {ready[0]} ms, "
              f"respawned: median {statistics.median(ready[1:]):.0f} ms (aim <= 300)")  # fmt: skip
    finally:
        server.stop()


def family_pss(pid: int) -> float:
    """Memory of all processes of a server in MB; shared pages are counted once."""
    master = psutil.Process(pid)
    members = [master, *master.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in members) / 1e6


def memory(options: argparse.Namespace, folder: Path) -> None:
    """PSS after ten requests per runner, for each engine: only `none` shares all weights."""
    bundle = big_bundle(folder)
    for engine in options.engines.split(","):
        found = {runners: loaded_pss(folder, bundle, engine, runners) for runners in (1, 4)}
        aim = " (aim <= 1.15)" if engine == "none" else ""
        print(f"{engine}: PSS {found[1]:.0f} MB with one runner, {found[4]:.0f} MB with four: "
              f"{found[4] / found[1]:.2f}{aim}")  # fmt: skip


def loaded_pss(folder: Path, bundle: Path, engine: str, runners: int) -> float:
    """PSS of a server with so many runners of one model."""
    model = {"bundle": str(bundle), "runners": runners, "optimization": engine}
    settings = {"models": [model], "plugins": [], "compute_threads": 1, "ready_timeout": 600}
    server = Running(folder / f"{engine}{runners}", **settings)
    server.start()
    try:
        server.wait_ready(300)
        ask_each_runner(server, runners)
        return family_pss(server.pid)
    finally:
        server.stop()


def ask_each_runner(server: Running, runners: int) -> None:
    """Ten requests per runner, with one in flight per runner."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(_: int) -> int:
        return server.ask("POST", "/v2/models/big/infer", field_request())[0]

    with ThreadPoolExecutor(runners) as pool:
        assert set(pool.map(ask, range(10 * runners))) == {200}
