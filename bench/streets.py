"""Trains cameras' models on driving-streets for the same time, side by side, and compares scores.

    python bench/streets.py --seconds 450 --workers 8 --out DIR

Each model is a process of its own with one thread, on the GPU if there is one. The drives are
rendered first, in parallel; `--seconds` is the time of everything together. For each config a
bundle with its scores, log and example is written to DIR/NAME.tar, and a table is printed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path

CONFIGS = ("stream-petr-streets", "rep-detr3d-streets", "detr3d-streets")
RESERVE = 30  # seconds for the last validation, the test and the bundle
SMOKE = {"count": 4, "batch": 4, "steps": 3}
UNLIMITED = 20_000  # steps; the time ends the run
READY = "ready"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=40, help="drives of the test; half validate")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/driving-streets"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def loaders() -> int:
    """Processes that load batches: three, unless shared memory is too small for their batches."""
    return 3 if shutil.disk_usage("/dev/shm").free > 4 << 30 else 0


def config(name: str, args: argparse.Namespace, smoke: bool) -> dict:
    from cupola.config import Config
    from cupola.train.recipe import find_config

    counts = {"train": args.clips, "val": args.tests // 2, "test": args.tests}
    if smoke:
        counts = dict.fromkeys(counts, 1) | {"train": SMOKE["count"]}
    changes: dict = {
        "train_dataloader.batch_size": SMOKE["batch"] if smoke else args.batch,
        "train_dataloader.num_workers": 0 if smoke else loaders(),
        "default_hooks.checkpoint.interval": 100_000,
        "train_cfg.val_interval": UNLIMITED,
        "train_cfg.max_iters": SMOKE["steps"] if smoke else UNLIMITED,
        "bundle.name": name,
    }
    for split, count in counts.items():
        changes[f"{split}_dataloader.dataset.count"] = count
        changes[f"{split}_dataloader.dataset.cache"] = str(args.cache)
    cfg: dict = Config.load(str(find_config(name))).override(changes).to_dict()
    if not smoke:
        warm_up = cfg["param_scheduler"][0]
        warm_up["end"] = UNLIMITED // 25
        cfg["train_cfg"]["max_seconds"] = max(10.0, args.deadline - time.time() - RESERVE)
    return cfg


def train_one(name: str, args: argparse.Namespace) -> None:
    """The process of one model: a few steps to see that it runs, then the training."""
    import torch

    from cupola.train.bundling import bundle_run
    from cupola.train.trainer import Trainer

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    folder = args.cache / "runs" / name
    Trainer(config(name, args, smoke=True), folder / "smoke", quiet=True).run()
    print(f"{name}: the first steps are fine", flush=True)
    while not (args.cache / READY).exists():
        time.sleep(0.2)
    trainer = Trainer(config(name, args, smoke=False), folder, quiet=True)
    print(f"{name}: training for {trainer.cfg['train_cfg']['max_seconds']:.0f} s", flush=True)
    try:
        trainer.run()
        seconds = time.time()
        bundle = bundle_run(trainer)
        print(f"{name}: test and bundle took {time.time() - seconds:.1f} s", flush=True)
    finally:
        pack(args.out / f"{name}.tar", folder)
    metrics = json.loads((bundle.path / "metrics.json").read_text())
    rows = {"steps": trainer.step, "seconds": trainer.seconds, **metrics}
    (folder / "result.json").write_text(json.dumps(rows))


def pack(path: Path, folder: Path) -> None:
    """Everything of a run but its checkpoints."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            extra = file.suffix == ".pth" or {"smoke", "tensorboard"} & set(file.parts)
            if file.is_file() and not extra:
                tar.add(file, file.relative_to(folder.parent))


def render(args: argparse.Namespace) -> None:
    from cupola.data.driving_streets import DrivingStreets

    started = time.time()
    for split, seed, count in (
        ("train", 0, args.clips),
        ("val", 0, args.tests // 2),
        ("val", 1, args.tests),
    ):
        DrivingStreets(split, seed, count, cache=args.cache).fill_cache(args.workers)
    (args.cache / READY).touch()
    seconds = time.time() - started
    print(f"rendered {args.clips + args.tests * 3 // 2} drives in {seconds:.0f} s", flush=True)


def main() -> None:
    args = options()
    if args.one:
        try:
            train_one(args.one, args)
        except BaseException:
            traceback.print_exc()
            raise
        return
    args.deadline = time.time() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache.mkdir(parents=True, exist_ok=True)
    (args.cache / READY).unlink(missing_ok=True)
    shutil.rmtree(args.cache / "runs", ignore_errors=True)
    log = (args.out / "log.txt").open("w")
    children = {}
    for name in args.configs:
        words = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        words += ["--deadline", str(args.deadline)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        children[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    render(args)
    for name, child in children.items():
        try:
            child.wait(max(1.0, args.deadline + 20 - time.time()))
        except subprocess.TimeoutExpired:
            child.terminate()
            print(f"{name}: ended at the deadline")
    report(args)


def report(args: argparse.Namespace) -> None:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [f"on {device}"]
    for name in args.configs:
        found = args.cache / "runs" / name / "result.json"
        rows = json.loads(found.read_text()) if found.is_file() else {"failed": 1}
        text = "  ".join(f"{key} {value:.4g}" for key, value in rows.items())
        lines.append(f"{name:22} {text}")
    print("\n".join(lines))
    log = args.out / "log.txt"
    with log.open("a") as file:
        file.write("\n".join(lines) + "\n")
    print("--- log", log.read_text()[-6000:], sep="\n")


if __name__ == "__main__":
    main()
