"""Counts lost requests while the server is reloaded, upgraded, rolled back, killed and misdeployed.

Clients that never retry send requests continuously. Every request has an id, which is checked in
its answer and against the server's access log. A request is lost if its answer is not complete;
with 0 of n lost, the true rate is below 3/n with 95 % confidence. Acts can be run one by one:
`--record` saves the results of each run, and `--sum` prints them together.

    python bench/server_loss.py [--acts reload:25,upgrade:5] [--requests 20000] [--record FILE]
    python bench/server_loss.py --peer gunicorn --python /path/to/python --acts reload:6
    python bench/server_loss.py --soak 5
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running

from loss_acts import ACTS
from loss_clients import Clients, Outcome
from loss_peers import ACTS as PEER_ACTS
from loss_peers import Peer
from ratio import machine
from soak import soak

DEFAULT = (
    "calm,reload:4,upgrade:2,rollback:2,runner:4,recycle:2,hang:2,worker:2,broken:6,rotate:2,disk"
)


def start_server(folder: Path) -> Running:
    """Starts two workers and one no-op runner, as a daemon, with a JSON access log."""
    server = Running(
        folder,
        workers=2,
        daemon=True,
        access_log=str(folder / "access.log"),
        access_log_format="json",
        keepalive_grace=5.0,
        loading_priority=10,
        ready_timeout=10.0,
        queue_limit=4096,
        min_uptime=0.01,
    )
    server.start()
    server.wait_ready()
    return server


def journal(folder: Path) -> Counter[str]:
    """Ids of the requests answered with 200, from the access logs."""
    found: Counter[str] = Counter()
    for file in folder.glob("access.log*"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["status"] == 200 and entry["path"].endswith("/infer"):
                found[entry["id"]] += 1
    return found


def perform(
    server: Running | Peer, clients: Clients, name: str, times: int, requests: int, end: float
) -> int:
    """Performs the act `times` times, or until `requests` were sent; returns how often."""
    done, goal = 0, clients.asked + requests
    clients.begin(name)
    time.sleep(0.5)  # so that requests in flight during the act belong to this phase
    while (done < times or clients.asked < goal) and time.monotonic() < end:
        if isinstance(server, Peer):
            server.act(name)
        else:
            ACTS[name](server)
        done += 1
    clients.begin("between")
    time.sleep(1.0)  # so that they also end in it
    return done


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Performs all acts; the results to record."""
    if options.peer:
        server: Running | Peer = Peer(options.peer, folder, options.python)
        server.start()
    else:
        server = start_server(folder)
    clients = Clients(server.port, options.connections, echoes=getattr(server, "echoes", True))
    done: dict[str, int] = {}
    end = time.monotonic() + options.seconds
    acts = [entry.partition(":") for entry in options.acts.split(",")]
    clients.start()
    try:
        for name, _, times in acts:
            goal = options.requests // len(acts)
            done[name] = perform(server, clients, name, int(times or 1), goal, end)
    finally:
        clients.stop()
        server.stop()
    told = journal(folder)
    return {
        "times": done,
        "twice": sum(count > 1 for count in told.values()),
        "phases": {name: summary(outcome) for name, outcome in clients.outcomes.items()},
    }


def summary(outcome: Outcome) -> dict[str, object]:
    seconds = sorted(outcome.seconds)
    return {
        "sent": outcome.sent,
        "answered": outcome.answered,
        "failed": dict(outcome.failed),
        "p50": 1000 * seconds[len(seconds) // 2],
        "p99": 1000 * seconds[int(0.99 * len(seconds))],
        "max": 1000 * seconds[-1],
    }


def report(found: dict[str, object]) -> None:
    print(f"{'act':10} {'times':>5} {'sent':>8} {'answered':>8} {'lost':>5} {'p50 ms':>7} "
          f"{'p99 ms':>7} {'max ms':>7}")  # fmt: skip
    sent = lost = 0
    for name, row in found["phases"].items():  # type: ignore[attr-defined]
        missing = row["sent"] - row["answered"]
        sent, lost = sent + row["sent"], lost + missing
        print(f"{name:10} {found['times'].get(name, ''):>5} {row['sent']:8} {row['answered']:8} "
              f"{missing:5} {row['p50']:7.1f} {row['p99']:7.1f} {row['max']:7.1f}  "
              f"{', '.join(f'{n} x {why}' for why, n in row['failed'].items())}")  # type: ignore[attr-defined]  # fmt: skip
    print(machine())
    print(f"total: {sent} sent, {lost} lost or wrong; answered twice by the journal: "
          f"{found['twice']}; rate below {(lost or 3) / max(1, sent):.1e}")  # fmt: skip


def summed(file: Path) -> dict[str, object]:
    """All runs of a record added up; the percentiles are those of the worst run."""
    times: Counter[str] = Counter()
    phases: dict[str, dict[str, object]] = {}
    twice = 0
    for line in file.read_text().splitlines():
        run = json.loads(line)
        times.update(run["times"])
        twice += run["twice"]
        for name, row in run["phases"].items():
            kept = phases.setdefault(name, {"failed": {}})
            for key in ("sent", "answered"):
                kept[key] = kept.get(key, 0) + row[key]
            for key in ("p50", "p99", "max"):
                kept[key] = max(kept.get(key, 0.0), row[key])
            kept["failed"] = dict(Counter(kept["failed"]) + Counter(row["failed"]))
    return {"times": times, "twice": twice, "phases": phases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acts", default=DEFAULT, help=f"of {', '.join(ACTS)}; NAME:TIMES")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=280.0, help="no act starts after that")
    parser.add_argument("--record", type=Path, help="append a line of JSON to this file")
    parser.add_argument("--sum", type=Path, help="only print the sum of a record's runs")
    parser.add_argument("--peer", choices=("gunicorn", "uvicorn", "nginx"))
    parser.add_argument("--python", default=sys.executable, help="Python of the peer")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    options = parser.parse_args()
    if options.peer and not {a.partition(":")[0] for a in options.acts.split(",")} <= {*PEER_ACTS}:
        parser.error(f"--peer takes the acts {', '.join(PEER_ACTS)}")
    if options.sum:
        report(summed(options.sum))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            server = start_server(Path(folder))
            sys.exit(soak(server, options.soak, options.connections))
        found = measure(options, Path(folder))
    if options.record:
        with options.record.open("a") as file:
            file.write(json.dumps(found) + "\n")
    report(found)


if __name__ == "__main__":
    main()
