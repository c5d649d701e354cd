"""Two replicas of cupola.ray against one, on a model that sleeps: `python bench/ray_serve.py`.

Each round deploys one replica and then two, in turn, on a local Ray cluster, and counts the answers
to clients that always wait for one. The model computes nothing, so that the ratio shows what Ray
and the ingress add and not the number of CPUs. The figure: two give 1.8 times of one.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "deploy"))

from ray_cluster import Cluster, Load
from serve_harness import write_bundle

from ratio import machine

CLIENTS, SLEEP = 8, 0.1  # more clients than replicas, and seconds of a request


def throughput(cluster: Cluster, bundle: Path, replicas: int, seconds: float) -> float:
    """Answers a second of an application with so many replicas."""
    settings = {"plugins": ["serve_plugin"], "max_batch": 1}
    cluster.do("run", bundle=str(bundle), num_replicas=replicas, settings=settings)
    with Load(cluster, CLIENTS, SLEEP) as load:
        load.wait_for(2 * CLIENTS)
        rate = load.rate(seconds)
    if set(load.statuses) != {200}:
        raise SystemExit(f"some requests failed: {load.statuses}")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    print(machine())
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder), "echo")
        cluster = Cluster()
        try:
            for _ in range(options.rounds):
                for replicas, found in rates.items():
                    found.append(throughput(cluster, bundle, replicas, options.seconds))
        finally:
            cluster.close()
    one, two = (statistics.median(found) for found in rates.values())
    print(f"one replica {one:.1f}, two {two:.1f} answers/s: {two / one:.2f} (goal: 1.8)")
    print(f"at most {1 / SLEEP:g} and {2 / SLEEP:g} answers/s with this model")


if __name__ == "__main__":
    main()
