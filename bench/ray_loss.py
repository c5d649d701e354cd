"""What a killed process of a Ray Serve application loses: cupola.ray and a trivial application.

    python bench/ray_loss.py [--kills 3] [--haproxy]

Under the load of clients that never retry, kills a replica of the models, a replica of the ingress,
or Ray's proxy, and counts the requests without an answer. The trivial application is one deployment
that sleeps, so that its losses are Ray's own. With `--haproxy`, Ray's HAProxy is used and not its
proxy; it may send a request again whose answer has not begun.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "deploy"))

from ray_cluster import Cluster, Load
from serve_harness import until, write_bundle

from ratio import machine

CLIENTS, SLEEP = 12, 0.05
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine starts it slowly
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


def losses(cluster: Cluster, victim: str, kills: int) -> tuple[int, Counter[Any]]:
    """The requests that were answered, and the others by what the client saw."""
    with Load(cluster, CLIENTS, SLEEP) as load:
        load.wait_for(4 * CLIENTS)
        for _ in range(kills):
            before = cluster.do("pids", deployment=victim)
            os.kill(before[0], signal.SIGKILL)
            until(lambda: _replaced(cluster, victim, before), 120)  # noqa: B023
            load.wait_for(4 * CLIENTS)
    refused = ("ConnectError", 200)  # nothing was sent, so nothing is lost
    lost = Counter({status: n for status, n in load.statuses.items() if status not in refused})
    return load.statuses[200], lost


def _replaced(cluster: Cluster, victim: str, before: list[int]) -> bool:
    now = cluster.do("pids", deployment=victim)
    return len(now) == len(before) and before[0] not in now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--haproxy", action="store_true")
    options = parser.parse_args()
    print(machine())
    victims = ["Models", "Ingress", "proxy"]
    if options.haproxy:
        os.environ.update(HAPROXY)
        victims.remove("proxy")
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder), "echo")
        cluster = Cluster()
        try:
            cluster.do("run_trivial", num_replicas=2)
            for victim in victims:
                if victim != "Ingress":
                    report("trivial", victim, cluster, options.kills)
            cluster.do(
                "run", bundle=str(bundle), num_replicas=2, ingress_replicas=2,
                settings={"plugins": ["serve_plugin"]},
            )  # fmt: skip
            for victim in victims:
                report("cupola.ray", victim, cluster, options.kills)
        finally:
            cluster.close()


def report(name: str, victim: str, cluster: Cluster, kills: int) -> None:
    answered, lost = losses(cluster, victim, kills)
    what = ", ".join(f"{n} x {status}" for status, n in lost.most_common()) or "none"
    print(f"{name}, {kills} times {victim} killed: {sum(lost.values())} lost ({what}), "
          f"{answered} answered")  # fmt: skip


if __name__ == "__main__":
    main()
