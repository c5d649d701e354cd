"""The Module core against torch.nn: torch's time over ours, medians; more means ours is faster.

python bench/nn.py
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from cupola import nn

Job = Callable[[], object]
CONFIG = Path(nn.__file__).parents[1] / "configs" / "detr" / "detr_r50.py"


def seconds(job: Job, repeats: int) -> float:
    """Return the seconds that some runs of a job take."""
    start = time.perf_counter()
    for _ in range(repeats):
        job()
    return time.perf_counter() - start


def ratio(theirs: Job, ours: Job, repeats: int, rounds: int = 61) -> float:
    """Return torch's median time over ours; the two take turns, so a busy machine hits both."""
    pairs = [(seconds(theirs, repeats), seconds(ours, repeats)) for _ in range(rounds)]
    return statistics.median(t for t, _ in pairs) / statistics.median(o for _, o in pairs)


def identity_of(base: type) -> Any:
    """Return a class on one of the two cores whose forward returns its input."""

    class Echo(base):  # type: ignore[misc, valid-type]
        def forward(self, x: object) -> object:
            return x

    return Echo


def tree(library: Any) -> Any:
    """Return a stack of 24 blocks, about as many modules as a detection model has."""

    def block() -> object:
        return library.Sequential(
            library.Linear(16, 16), library.LayerNorm(16), library.ReLU(), library.Linear(16, 16)
        )

    return library.Sequential(*[block() for _ in range(24)])


def attribute_jobs(library: Any) -> dict[str, Job]:
    """Return the jobs that read one attribute, many times in one compiled loop."""
    linear = library.Linear(8, 8)
    chain = library.Sequential(linear)
    chain.add_module("first", linear)

    def read_parameter() -> None:
        m = linear
        for _ in range(100):
            _ = m.weight, m.weight, m.weight, m.weight, m.weight, m.weight, m.weight, m.weight

    def read_child() -> None:
        m = chain
        for _ in range(100):
            _ = m.first, m.first, m.first, m.first, m.first, m.first, m.first, m.first

    return {"read a parameter": read_parameter, "read a child": read_child}


def jobs(library: Any) -> dict[str, tuple[Job, int]]:
    """Return every comparison: name -> (job, repeats)."""
    base = library.Module
    linear = library.Linear(8, 8)
    echo_class = identity_of(base)
    echo, hooked = echo_class(), echo_class()
    hooked.register_forward_hook(lambda *_: None)
    pre, keywords, backward = echo_class(), echo_class(), echo_class()
    pre.register_forward_pre_hook(lambda *_: None)
    keywords.register_forward_hook(lambda *_: None, with_kwargs=True)
    backward.register_full_backward_hook(lambda *_: None)
    model = tree(library)
    x = torch.randn(1, 8)
    state = model.state_dict()
    reads = {name: (job, 5) for name, job in attribute_jobs(library).items()}
    return (
        reads
        | {
            "call of an identity": (lambda: echo(x), 2000),
            "call with a hook": (lambda: hooked(x), 1000),
            "call with a pre-hook": (lambda: pre(x), 1000),
            "call with a keyword hook": (lambda: keywords(x), 1000),
            "call with a backward hook": (lambda: with_gradients(backward), 200),
            "Linear(8, 8) call": (lambda: linear(x), 500),
            "construct 1000 Linear": (lambda: [library.Linear(8, 8) for _ in range(1000)], 1),
            "construct 1000 bare modules": (lambda: [base() for _ in range(1000)], 3),
            "state_dict": (lambda: model.state_dict(), 3),
            "load_state_dict": (lambda: model.load_state_dict(state), 3),
            "deepcopy": (lambda: copy.deepcopy(model), 1),
            "list(named_parameters())": (lambda: list(model.named_parameters()), 5),
            "next(parameters())": (lambda: next(model.parameters()), 500),
        }
        | tree_jobs(library, model)
    )


def with_gradients(module: object) -> object:
    """Call a module with an input that needs a gradient."""
    with torch.enable_grad():
        return module(torch.ones(1, requires_grad=True))


def consume(items: Iterable[object]) -> None:
    """Read everything."""
    for _ in items:
        pass


def tree_jobs(library: Any, model: Any) -> dict[str, tuple[Job, int]]:
    """Return the comparisons of walks, containers and conversions: name -> (job, repeats)."""
    flat = library.Sequential(*[library.Linear(1, 1) for _ in range(1000)])
    plain = library.Sequential(*[library.ReLU() for _ in range(1000)])
    items = library.ModuleList([library.Linear(1, 1) for _ in range(24)])
    chain = library.Sequential(*items)
    named = library.ModuleDict({f"k{i}": library.Linear(1, 1) for i in range(24)})
    layer = library.Linear(1, 1)
    return {
        "next(parameters()) of 1000": (lambda: next(flat.parameters()), 100),
        "no parameter in 1000": (lambda: next(plain.parameters(), None), 3),
        "next(modules()) of 1000": (lambda: next(flat.modules()), 500),
        "next(children()) of 1000": (lambda: next(flat.children()), 500),
        "next(buffers()) of 1000": (lambda: next(flat.buffers(), None), 3),
        "list(modules())": (lambda: list(model.modules()), 5),
        "list(children())": (lambda: list(items.children()), 50),
        "list(buffers())": (lambda: list(model.buffers()), 5),
        "_modules.values()": (lambda: chain._modules.values(), 500),
        "_modules[k]": (lambda: chain._modules["7"], 500),
        "iterate over a Sequential": (lambda: consume(chain), 200),
        "iterate over a ModuleList": (lambda: consume(items), 200),
        "ModuleList[i]": (lambda: items[7], 500),
        "Sequential[i]": (lambda: chain[7], 500),
        "len(ModuleList)": (lambda: len(items), 500),
        "ModuleDict[k]": (lambda: named["k7"], 500),
        "ModuleDict.items()": (lambda: consume(named.items()), 200),
        "get_submodule": (lambda: model.get_submodule("3.2"), 200),
        "apply": (lambda: model.apply(lambda module: None), 5),
        "eval": (lambda: model.eval(), 5),
        "to, of one layer": (lambda: layer.to("cpu"), 50),
        "to, without effect": (lambda: model.to("cpu"), 3),
        "to, of the same dtype": (lambda: model.to(torch.float32), 3),
        "cast there and back": (lambda: model.double().float(), 1),
    }


def bridged_call() -> float:
    """Return torch's time over a bridged module's for one call of an identity."""
    x = torch.randn(1)
    theirs = identity_of(torch.nn.Module)()
    ours = nn.to_torch(identity_of(nn.Module)())  # type: ignore[arg-type]
    return ratio(lambda: theirs(x), lambda: ours(x), 2000)


# Each runs in a process of its own: prints seconds and private megabytes after the imports.
START = """
import json, sys, time, psutil
{imports}
private = lambda: psutil.Process().memory_full_info().uss / 1e6
times, before = [], private()
for _ in range(5):
    model = None
    begin = time.perf_counter()
    model = {build}
    times.append(time.perf_counter() - begin)
print(json.dumps([sorted(times)[2], private() - before]))
"""
OURS = {
    "imports": "import cupola, cupola.models; from cupola.runtime.building import build\n"
    f"config = cupola.Config.load({str(CONFIG)!r}).to_dict()['model']",
    "build": "build(config, weights=sys.argv[1])",
}
THEIRS = {
    "imports": "from transformers import DetrForObjectDetection as Detr\nimport torch",
    "build": "Detr.from_pretrained(sys.argv[1])",
}


def start(script: dict[str, str], weights: Path) -> tuple[float, float]:
    """Return the median seconds, and the private megabytes, that building with weights takes."""
    command = [sys.executable, "-c", START.format(**script), str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def write_weights(folder: Path) -> tuple[Path, Path]:
    """Write the same DETR-R50 as our safetensors file and as transformers' folder."""
    from transformers import DetrConfig, DetrForObjectDetection

    import cupola

    config = cupola.Config.load(CONFIG)
    ours = folder / "ours.safetensors"
    from safetensors.torch import save_file

    state = cupola.build(config.to_dict()["model"]).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, ours)
    settings = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False)
    DetrForObjectDetection(settings).save_pretrained(folder / "theirs")
    return ours, folder / "theirs"


def report_starts() -> None:
    """Print how long DETR-R50 takes from a file to ready, ours and transformers'."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = write_weights(Path(folder))
        our_seconds, our_megabytes = start(OURS, ours)
        their_seconds, their_megabytes = start(THEIRS, theirs)
    print(f"DETR-R50 ready: {our_seconds:.3f} s, {our_megabytes:.0f} MB private (target 0.25, 200)")
    print(f"transformers:   {their_seconds:.3f} s, {their_megabytes:.0f} MB private")
    print(f"ratio {their_seconds / our_seconds:.1f} (target 5)")


AT_PAR = 0.91  # no act takes more than 1.1 of torch's time
TARGETS = {
    "read a parameter": 12.0,
    "read a child": 12.0,
    "call of an identity": 2.5,
    "call with a hook": 1.2,
    "call with a pre-hook": 1.2,
    "Linear(8, 8) call": 1.4,
    "construct 1000 Linear": 1.6,
    "construct 1000 bare modules": 6.0,
    "state_dict": 1.4,
    "load_state_dict": 3.0,
    "deepcopy": 2.5,
    "list(named_parameters())": 1.2,
    "bridged call": 0.95,
}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    theirs, ours = jobs(torch.nn), jobs(nn)
    print(f"{'job':<30}{'torch / ours':>14}{'target':>9}")
    for name, (job, repeats) in theirs.items():
        found, target = ratio(job, ours[name][0], repeats), TARGETS.get(name, AT_PAR)
        print(f"{name:<30}{found:>14.2f}{target:>9.2f}")
    print(f"{'bridged call':<30}{bridged_call():>14.2f}{TARGETS['bridged call']:>9.2f}")
    report_starts()


if __name__ == "__main__":
    main()
