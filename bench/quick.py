"""The figures of docs/measured.md in under three minutes on two cores, each with its limit.

One line a figure: what, the ratio, the limit that the documentation promises, and a mark where the
ratio is beyond it. Every ratio is against the peer in this run. Figures never fail the run, since
they depend on the machine and on what else it does; a part that cannot run does (exit code 1). A
peer that is not installed is named. `make bench-quick` runs it.

    python bench/quick.py [--parts bloom server] [--json FILE] [--threads 2] [--avx2]
    python bench/quick.py --table FILE [FILE ...]    # the table of docs/measured.md
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ratio import alternate, as_avx2, kind, machine

SHAPE = {"vocab_size": 65536, "hidden_size": 1024, "n_layer": 6, "n_head": 16}  # a small BLOOM-560m
CONFIGS = Path(__file__).parent.parent / "src/cupola/configs"
SECONDS = 1.0  # that a server is driven with each kind of load


@dataclass(frozen=True)
class Figure:
    """One line. A value of None: the peer is not installed, `note` says which."""

    name: str
    value: float | None
    limit: float
    at_least: bool = False  # the limit is a lower one
    note: str = ""

    @property
    def exceeded(self) -> bool:
        """Whether the value is on the wrong side of the limit."""
        if self.value is None:
            return False
        return self.value < self.limit if self.at_least else self.value > self.limit

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.2f}"
        bound = f"{'>=' if self.at_least else '<='} {self.limit:g}"
        mark = "EXCEEDED" if self.exceeded else ""
        return f"{self.name:<64}{value:>7}  {bound:<9}{mark:<9} {self.note}".rstrip()


def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of its parent
        return False


@torch.inference_mode()
def detr() -> Iterator[Figure]:
    """DETR-R50 at 800 x 1066 with folded batch norms."""
    name = "DETR-R50, time over transformers"
    if not installed("transformers"):
        yield Figure(name, None, 0.65, note="transformers is not installed")
        return
    import detr as bench
    from cupola.runtime.optimize.folding import fold_batch_norms

    reference = bench.detr()
    model = fold_batch_norms(bench.ours(reference))
    ours, theirs = bench.times(model, reference, rounds=3)
    yield Figure(name, ours / theirs, 0.65, note=f"{ours:.2f} s")


@torch.inference_mode()
def zoo() -> Iterator[Figure]:
    """Published detectors with folded batch norms against onnxruntime with our export."""
    models = {"rtmdet_s": ("RTMDet-s", 5), "faster_rcnn": ("Faster R-CNN R50", 2)}
    for model, (shown, rounds) in models.items():
        name = f"{shown}, time over onnxruntime"
        if not installed("onnxruntime"):
            yield Figure(name, None, 1.0, note="onnxruntime is not installed")
            continue
        import zoo as bench

        case = bench.Case(model, torch.get_num_threads())
        ours, theirs = alternate(case.folded, case.peer, rounds)
        yield Figure(name, ours / theirs, 1.0, note=f"{ours:.2f} s")


@torch.inference_mode()
def afno() -> Iterator[Figure]:
    """The filter at FourCastNet's size against the same computation as the paper writes it."""
    import afno as bench

    ours, theirs = bench.filter_times(rounds=3)
    yield Figure("AFNO filter, time over the paper's formula", ours / theirs, 0.5)
    name = "AFNO filter, time over physicsnemo"
    if not installed("physicsnemo"):
        yield Figure(name, None, 0.5, note="physicsnemo is not installed: bench/afno.py --peer")


def bloom() -> Iterator[Figure]:
    """A language model with weights in float16, with the storages that are measured to be best."""
    if not installed("transformers"):
        yield Figure("BLOOM decode", None, 0.75, note="transformers is not installed")
        return
    import bloom as bench

    ways = {name: bench.WAYS[name] for name in ("auto, exact", "auto, int8")}
    for dtype in (torch.float16, torch.float32):
        variants, theirs = bench.models(SHAPE, dtype, ways)
        found = bench.decode(variants, theirs)
        kept = f"BLOOM in {str(dtype).removeprefix('torch.')}"  # all compute in float32
        for name, limit in (("auto, exact", 0.75), ("auto, int8", 0.60)):
            note = f"{found[name] * 1e3:.0f} ms"
            ratio = found[name] / found["theirs"]
            yield Figure(f"{kept}, a token, {name}, over transformers", ratio, limit, note=note)
            gain = 8 * found[name] / found[f"{name} x 8"]
            yield Figure(f"{kept}, eight streams, {name}, tokens/s over one", gain, 4.0, True)
        if dtype == torch.float16:
            mine, other = bench.prefill(variants["auto, exact"], theirs)
            yield Figure(f"{kept}, a prompt of 128, over transformers", mine / other, 0.85)


def config() -> Iterator[Figure]:
    """The shipped configs; `python bench/config.py` reads all published ones."""
    name = "reading configs, CPU time over mmengine"
    if not installed("mmengine"):
        yield Figure(name, None, 0.3, note="mmengine is not installed")
        return
    import config as bench

    files = sorted(CONFIGS.rglob("*.py"))
    bench.measure(files[:1])  # imports
    found = bench.measure(files)
    note = f"{found['equal']} of {found['read']} equal"
    yield Figure(name, found["ours"] / found["theirs"], 0.3, note=note)


def module_core() -> Iterator[Figure]:
    """cupola.nn against torch.nn; the limits are bench/nn.py's."""
    import nn as bench

    theirs, ours = bench.jobs(torch.nn), bench.jobs(bench.nn)
    names = ("call of an identity", "Linear(8, 8) call", "construct 1000 Linear", "load_state_dict")
    with torch.no_grad():
        for name in names:
            job, repeats = theirs[name]
            found = bench.ratio(job, ours[name][0], repeats, rounds=9)
            limit = round(1 / bench.TARGETS[name], 2)
            yield Figure(f"Module core, {name}, time over torch.nn", 1 / found, limit)


def server() -> Iterator[Figure]:
    """A model that does nothing, through worker and runner."""
    name = "server, no-op model: "
    if not installed("uvicorn"):
        yield Figure(f"{name}p50 over uvicorn", None, 4.0, note="uvicorn is not installed")
        return
    import serve as bench

    with tempfile.TemporaryDirectory() as folder:
        latency, rate = bench.noop_figures(Path(folder), SECONDS, rounds=2)
    p50 = {key: statistics.median(values) for key, values in latency.items()}
    answers = {key: statistics.median(values) for key, values in rate.items()}
    note = f"{p50['cupola']:.2f} ms"
    yield Figure(f"{name}p50 over uvicorn", p50["cupola"] / p50["uvicorn"], 4.0, note=note)
    ratio = answers["cupola"] / answers["uvicorn"]
    yield Figure(f"{name}answers/s over uvicorn", ratio, 0.4, True, f"{answers['cupola']:.0f}/s")


def grpc() -> Iterator[Figure]:
    """The same model by gRPC and by REST."""
    missing = [package for package in ("google.protobuf", "hpack") if not installed(package)]
    if missing:
        yield Figure("gRPC, p50 over REST", None, 1.3, note=f"{missing[0]} is not installed")
        return
    import grpc_rest as bench

    options = argparse.Namespace(
        seconds=SECONDS, rounds=2, clients=bench.CLIENTS, tritonclient=False
    )
    found = bench.figures(options)
    ours, rest = found["grpc"], found["rest"]
    yield Figure("gRPC, p50 over REST", ours["p50"] / rest["p50"], 1.3)
    yield Figure("gRPC, answers/s over REST", ours["rate"] / rest["rate"], 0.8, True)


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "detr": detr,
    "zoo": zoo,
    "afno": afno,
    "bloom": bloom,
    "config": config,
    "nn": module_core,
    "server": server,
    "grpc": grpc,
}


def run(names: list[str]) -> tuple[list[Figure], list[str]]:
    """Prints the figures of some parts; returns them, and the parts that failed."""
    figures, failed = [], []
    for name in names:
        started = time.perf_counter()
        try:
            for figure in PARTS[name]():
                print(figure, flush=True)
                figures.append(figure)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"  ({name}: {time.perf_counter() - started:.0f} s)", file=sys.stderr)
    return figures, failed


def report(figures: list[Figure], failed: list[str]) -> dict[str, Any]:
    """What --json writes."""
    lines = [{**asdict(figure), "exceeded": figure.exceeded} for figure in figures]
    return {"machine": machine(), "kind": kind(), "torch": torch.__version__,
            "threads": torch.get_num_threads(), "figures": lines, "failed": failed}  # fmt: skip


def table(files: list[Path]) -> str:
    """The figures of several reports as a table in Markdown, a column for each kind of processor.

    Of two reports of one kind the later one counts.
    """
    columns: dict[str, dict[str, str]] = {}
    limits: dict[str, str] = {}
    for file in files:
        found = json.loads(file.read_text())
        column = columns.setdefault(found["kind"], {})
        for line in found["figures"]:
            if line["value"] is not None:
                name = line["name"]
                limits[name] = f"{'>=' if line['at_least'] else '<='} {line['limit']:g}"
                column[name] = f"{line['value']:.2f}"
    head = ["measurement", *columns, "limit"]
    rows = [[name, *(c.get(name, "") for c in columns.values()), limits[name]] for name in limits]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from torch")
    parser.add_argument("--table", nargs="*", type=Path, help="print reports of --json, and end")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    if options.avx2:
        as_avx2()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{machine()}: {kind()}; torch {torch.__version__}, {options.threads} threads")
    figures, failed = run(options.parts)
    beyond = sum(figure.exceeded for figure in figures)
    print(f"{len(figures)} figures, {beyond} beyond their limit, {len(failed)} parts failed")
    if options.json:
        options.json.write_text(json.dumps(report(figures, failed), indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
