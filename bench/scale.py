"""How many nodes 10,000 requests a second take, in simulation: `python bench/scale.py`.

Measures seconds of a batch of a shipped detector on this processor first, or takes them from
`--fixed` and `--each`. docs/scale.md quotes the tables; `--quick` is a twentieth of the load.
"""

import argparse
import time

import numpy as np

from ratio import machine
from scale_model import Fleet, Scaler, Service

RATE = 10_000.0  # requests a second


def measured(name: str = "detr-digits", rounds: int = 20) -> tuple[float, float]:
    """Seconds of a batch, fixed and for each image, fitted; with decoding. CPU time, one thread."""
    import torch

    from cupola.bundles import Bundle
    from cupola.runtime import Predictor

    torch.set_num_threads(1)
    bundle = Bundle.load(name)
    predictor = Predictor.load(bundle)
    predictor.prepare()
    image = (bundle.path / "example" / "image.png").read_bytes()
    tensor = {"image": np.array([image], dtype=object)}
    sizes, seconds = (1, 2, 4, 8), []
    for size in sizes:
        times = []
        for _ in range(rounds):
            began = time.process_time()
            samples = [predictor.decode(tensor, {})[0] for _ in range(size)]
            predictor.encode(predictor.run(samples), {})
            times.append(time.process_time() - began)
        seconds.append(min(times))  # other processes only add to it
    each, fixed = np.polyfit(sizes, seconds, 1)
    return max(0.0, float(fixed)), float(each)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def table(*head: str) -> None:
    print()
    row(*head)
    row(*("---" for _ in head))


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def fixed_fleets(service: Service, rate: float, seconds: float) -> None:
    """Latency by utilization, without an autoscaler."""
    table("nodes", "of their full-batch rate", "p50", "p99", "refused")
    for share in (0.5, 0.7, 0.8, 0.9, 0.95, 1.05):
        nodes = max(1, round(rate / (share * service.rate())))
        found = Fleet(service, nodes, lambda _: rate, seconds, warm_up=seconds / 5).run()
        used = rate / (nodes * service.rate())
        row(nodes, f"{used:.0%}", milliseconds(found.percentile(50)),
            milliseconds(found.percentile(99)), f"{found.refused_share:.2%}")  # fmt: skip


def without_batches(service: Service, rate: float, seconds: float) -> None:
    """The same load with max_batch 1, with as many nodes as batches need at 70 %."""
    single = Service(service.fixed, service.each, service.runners, 1, service.queue_limit)
    table("max_batch", "nodes at 70 %", "p50", "p99")
    for each in (single, service):
        nodes = max(1, round(rate / (0.7 * each.rate())))
        found = Fleet(each, nodes, lambda _: rate, seconds, warm_up=seconds / 5).run()
        row(each.max_batch, nodes, milliseconds(found.percentile(50)),
            milliseconds(found.percentile(99)))  # fmt: skip


def a_zone_fails(service: Service, rate: float, seconds: float) -> None:
    """A third of the nodes dies, with and without spare capacity."""
    table("nodes", "used before", "used after", "requests held by the lost nodes", "p99", "refused")
    for share in (0.5, 0.6, 0.7):
        nodes = max(3, round(rate / (share * service.rate())))
        fleet = Fleet(service, nodes, lambda _: rate, seconds).fail(seconds / 2, 1 / 3)
        found = fleet.run()
        row(nodes, f"{share:.0%}", f"{1.5 * share:.0%}", found.lost,
            milliseconds(found.percentile(99)), f"{found.refused_share:.2%}")  # fmt: skip


def doubling(service: Service, rate: float, start_seconds: float) -> None:
    """The load doubles at once; an autoscaler follows, by how soon a node is ready."""
    target = 0.7 * service.runners * service.max_batch
    table("a node is ready after", "nodes before", "most", "refused", "p99", "full speed after")
    for delay in (2.0, start_seconds, 3 * start_seconds):

        def load(now: float) -> float:
            return rate / 2 if now < 30 else rate

        scaler = Scaler(target, start_seconds=delay)
        nodes = max(1, round(rate / 2 / (0.7 * service.rate())))
        found = Fleet(service, nodes, load, 70 + delay, scaler=scaler, warm_up=20).run()
        before = [count for at, count in found.nodes if at <= 30][-1]
        needed = rate / service.rate()
        reached = [at for at, count in found.nodes if at > 30 and count >= needed]
        row(f"{delay:.0f} s", before, max(count for _, count in found.nodes),
            f"{found.refused_share:.2%}", milliseconds(found.percentile(99)),
            f"{reached[0] - 30:.0f} s" if reached else "-")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixed", type=float, help="seconds of a batch, whatever its size")
    parser.add_argument("--each", type=float, help="further seconds of each request")
    parser.add_argument("--runners", type=int, default=8, help="of a node, one a core")
    parser.add_argument("--start-seconds", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(machine())
    fixed, each = options.fixed, options.each
    if fixed is None or each is None:
        fixed, each = measured()
    rate = RATE / 20 if options.quick else RATE
    service = Service(fixed, each, options.runners)
    print(f"a batch of n images takes {1000 * fixed:.1f} + {1000 * each:.1f} n ms on one core; a "
          f"node of {options.runners} runners does {service.rate():.0f} a second in batches of "
          f"{service.max_batch}, {service.rate(1):.0f} one by one")  # fmt: skip
    print(f"{rate:.0f} requests a second")
    fixed_fleets(service, rate, options.seconds)
    without_batches(service, rate, options.seconds)
    a_zone_fails(service, rate, options.seconds)
    doubling(service, rate, options.start_seconds)


if __name__ == "__main__":
    main()
