"""Prometheus metrics over all workers, through prometheus_client's memory-mapped files.

Each worker writes files named after its slot, which a respawned worker takes up again, so counters
survive a crash and the number of files is bounded. Times in seconds.
"""

import os
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_by_slot: Any = values.MultiProcessValue  # the library leaves these two untyped
_collect: Any = MultiProcessCollector
PHASES = ("queue", "batch", "run", "encode")


class Metrics:
    """What a worker counts. One instance a process, made after the fork."""

    def __init__(self, folder: Path, slot: int, generation: int) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = _by_slot(process_identifier=lambda: slot)
        self._folder = str(folder)
        own = CollectorRegistry()
        model = ["model", "version"]
        self.requests = Counter(
            "cupola_requests", "HTTP requests by status.", ["status"], registry=own
        )
        self.inferences = Counter(
            "cupola_inferences", "Model requests by outcome.", [*model, "outcome"], registry=own
        )
        self.phases = Histogram(
            "cupola_phase_seconds", "Latency by phase: queue, batch, run, encode.",
            [*model, "phase"], buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.total = Histogram(
            "cupola_request_seconds", "From the first byte of the request to the answer.",
            model, buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.batches = Histogram(
            "cupola_batch_size", "Samples that ran together.", model, buckets=BATCHES, registry=own
        )
        self.queue = Gauge(
            "cupola_queue_depth", "Requests held.", model, multiprocess_mode="sum", registry=own
        )
        self.connections = Gauge(
            "cupola_connections", "Open connections.", multiprocess_mode="sum", registry=own
        )
        self._children: dict[tuple[str, str], _ModelMetrics] = {}

    def of(self, name: str, version: str) -> "_ModelMetrics":
        """The children of one model, looked up once."""
        key = (name, version)
        if key not in self._children:
            self._children[key] = _ModelMetrics(self, name, version)
        return self._children[key]

    def text(self, processes: dict[str, Any], runners: list[dict[str, Any]]) -> bytes:
        """The exposition: the workers' files, and gauges from the master's and mould's status."""
        registry = CollectorRegistry()
        _collect(registry, path=self._folder)
        return bytes(generate_latest(registry)) + _status_lines(processes, runners)


class _ModelMetrics:
    """Label lookups are slow; these are done once for each model."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self.phases = [metrics.phases.labels(name, version, phase) for phase in PHASES]
        self.total = metrics.total.labels(name, version)
        self.batch = metrics.batches.labels(name, version)
        self.queue = metrics.queue.labels(name, version)
        self._outcomes = metrics.inferences
        self._name, self._version = name, version
        self.good = metrics.inferences.labels(name, version, "ok")

    def bad(self, outcome: str) -> None:
        """Counts a request that got no answer."""
        self._outcomes.labels(self._name, self._version, outcome).inc()

    def answered(self, header: dict[str, Any], total: float) -> None:
        """Counts an answer with the times that the runner measured."""
        self.good.inc()
        self.total.observe(total)
        for child, seconds in zip(self.phases, (header["waited"], *header["times"]), strict=True):
            child.observe(max(0.0, seconds))
        self.batch.observe(header["batch"])


def _status_lines(status: dict[str, Any], runners: list[dict[str, Any]]) -> bytes:
    lines = [
        "# HELP cupola_generation The generation in service.",
        "# TYPE cupola_generation gauge",
        f"cupola_generation {status.get('generation', 0)}",
        "# HELP cupola_processes Living children of the master.",
        "# TYPE cupola_processes gauge",
    ]
    roles: dict[tuple[str, str], int] = {}
    for child in status.get("processes", []):
        key = (child["role"], child["state"])
        roles[key] = roles.get(key, 0) + 1
    lines += [f'cupola_processes{{role="{r}",state="{s}"}} {n}' for (r, s), n in roles.items()]
    lines += ["# HELP cupola_signals_total Signals taken.", "# TYPE cupola_signals_total counter"]
    lines += [
        f'cupola_signals_total{{flag="{flag}"}} {n}'
        for flag, n in status.get("signals", {}).items()
    ]
    lines += [
        "# HELP cupola_respawns_total Processes started again.",
        "# TYPE cupola_respawns_total counter",
    ]
    respawns: dict[str, int] = {}
    for child in status.get("processes", []):
        respawns[child["role"]] = respawns.get(child["role"], 0) + child["respawns"]
    respawns["runner"] = sum(runner["respawns"] for runner in runners)
    lines += [f'cupola_respawns_total{{role="{role}"}} {n}' for role, n in respawns.items()]
    lines += ["# HELP cupola_runner_ready Whether the runner answers.",
              "# TYPE cupola_runner_ready gauge"]  # fmt: skip
    lines += [
        f'cupola_runner_ready{{model="{r["name"]}",version="{r["version"]}",'
        f'index="{r["index"]}"}} {int(r["state"] == "ready")}'
        for r in runners
    ]
    return ("\n".join(lines) + "\n").encode()
