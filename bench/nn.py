"""The Module core against torch.nn: torch's time over ours, medians; more means ours is faster.

python bench/nn.py
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch

from cupola import nn

Job = Callable[[], object]


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


def identity_of(base: type) -> Callable[[], object]:
    """Return a class on one of the two cores whose forward returns its input."""

    class Echo(base):  # type: ignore[misc, valid-type]
        def forward(self, x: object) -> object:
            return x

    return Echo


def tree(library: object) -> object:
    """Return a stack of 24 blocks, about as many modules as a detection model has."""

    def block() -> object:
        return library.Sequential(  # type: ignore[attr-defined]
            library.Linear(16, 16), library.LayerNorm(16), library.ReLU(), library.Linear(16, 16)
        )

    return library.Sequential(*[block() for _ in range(24)])  # type: ignore[attr-defined]


def attribute_jobs(library: object) -> dict[str, Job]:
    """Return the jobs that read one attribute, many times in one compiled loop."""
    linear = library.Linear(8, 8)  # type: ignore[attr-defined]
    chain = library.Sequential(linear)  # type: ignore[attr-defined]
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


def jobs(library: object) -> dict[str, tuple[Job, int]]:
    """Return every comparison: name -> (job, repeats)."""
    base = library.Module  # type: ignore[attr-defined]
    linear = library.Linear(8, 8)  # type: ignore[attr-defined]
    echo = identity_of(base)()
    model = tree(library)
    x = torch.randn(1, 8)
    state = model.state_dict()  # type: ignore[attr-defined]
    reads = {name: (job, 5) for name, job in attribute_jobs(library).items()}
    return reads | {
        "call of an identity": (lambda: echo(x), 2000),
        "Linear(8, 8) call": (lambda: linear(x), 500),
        "construct 1000 Linear": (lambda: [library.Linear(8, 8) for _ in range(1000)], 1),
        "construct 1000 bare modules": (lambda: [base() for _ in range(1000)], 3),
        "state_dict": (lambda: model.state_dict(), 3),
        "load_state_dict": (lambda: model.load_state_dict(state), 3),
        "deepcopy": (lambda: copy.deepcopy(model), 1),
        "list(named_parameters())": (lambda: list(model.named_parameters()), 5),
    }


TARGETS = {
    "read a parameter": 12.0,
    "read a child": 12.0,
    "call of an identity": 2.5,
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
        print(f"{name:<30}{ratio(job, ours[name][0], repeats):>14.2f}{TARGETS[name]:>9.2f}")


if __name__ == "__main__":
    main()
