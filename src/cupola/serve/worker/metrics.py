"""Prometheus metrics over all workers, through prometheus_client's memory-mapped files.

Each worker writes files named after its slot, which a respawned worker takes up again, so counters
survive a crash and the number of files is bounded. Times in seconds.
"""

import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import Sequence
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

from cupola.serve.ipc.frames import Frame
from cupola.serve.worker.runner_connections import Model

FLUSH = 0.1  # seconds from a request to its place in the files
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_by_slot: Any = values.MultiProcessValue  # the library leaves these two untyped
_collect: Any = MultiProcessCollector
PHASES = ("queue", "batch", "run", "encode")


class Metrics:
    """What a worker counts. One instance a process, made after the fork.

    A request adds to plain numbers; a tenth of a second later they go to the mapped files, all
    together, which keeps the cost of those off every single request.
    """

    def __init__(self, folder: Path, slot: int, generation: int) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = _by_slot(process_identifier=lambda: slot)
        self._folder = str(folder)
        own = CollectorRegistry()
        model = ["model", "version"]
        self._requests = Counter(
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
        self._statuses: dict[int, int] = {}
        self._models: dict[Model, ModelMetrics] = {}
        self._flush_due = False

    def of(self, model: Model) -> "ModelMetrics":
        """The counts of one model."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self, model)
        return self._models[model]

    def count_request(self, status: int) -> None:
        """One HTTP request more."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self.touch()

    def touch(self) -> None:
        """Something was counted: the files will know soon."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(FLUSH, self.flush)

    def flush(self) -> None:
        """Writes what was counted since the last time."""
        self._flush_due = False
        for status, count in self._statuses.items():
            self._requests.labels(str(status)).inc(count)
        self._statuses.clear()
        for counts in self._models.values():
            counts.flush()
        self._models = {model: kept for model, kept in self._models.items() if model.links}

    def text(self, processes: dict[str, Any], runners: list[dict[str, Any]]) -> bytes:
        """The exposition: the workers' files, and gauges from the master's and zygote's status."""
        self.flush()
        registry = CollectorRegistry()
        _collect(registry, path=self._folder)
        return bytes(generate_latest(registry)) + _status_lines(processes, runners)


class Tally:
    """What a histogram will learn at the next flush; `total` is never reset."""

    def __init__(self, histogram: Any, bounds: Sequence[float]) -> None:
        self._histogram, self._bounds = histogram, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = self.total = 0.0

    def add(self, value: float) -> None:
        """One observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Into the mapped file; the library has no public way to observe many at once."""
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        if self._sum:
            self._histogram._sum.inc(self._sum)
        self.total += self._sum
        self._sum, self._counts = 0.0, [0] * len(self._counts)


class ModelMetrics:
    """The counts of one model in one worker; label lookups, which are slow, are done once."""

    def __init__(self, metrics: Metrics, model: Model) -> None:
        labels = (model.name, model.version)
        self._metrics, self._model = metrics, model
        self.phases = [Tally(metrics.phases.labels(*labels, phase), SECONDS) for phase in PHASES]
        self.total = Tally(metrics.total.labels(*labels), SECONDS)
        self._batches = Tally(metrics.batches.labels(*labels), BATCHES)
        self._queue = metrics.queue.labels(*labels)
        self._outcomes: dict[str, int] = {}
        self.answers = self.failures = self.samples = self.hits = self.misses = 0
        self.last = 0.0  # when the last answer left, in seconds since 1970

    def answered(self, answer: Frame, seconds: float) -> None:
        """Counts an answer with the times that the runner measured."""
        if answer.status != 200:
            self.ended(str(answer.status))
            return
        self.answers += 1
        self.samples += answer.samples
        self.total.add(seconds)
        for tally, phase in zip(self.phases, answer.times, strict=True):
            tally.add(max(0.0, phase))
        self._batches.add(answer.batch)
        self.last = time.time()
        self._count("ok")

    def ended(self, outcome: str) -> None:
        """Counts a request that ended without a whole answer, or a stream."""
        self.failures += outcome != "ok"
        self._count(outcome)

    def _count(self, outcome: str) -> None:
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._metrics.touch()

    def flush(self) -> None:
        """Writes what was counted since the last time."""
        for outcome, count in self._outcomes.items():
            labels = (self._model.name, self._model.version, outcome)
            self._metrics.inferences.labels(*labels).inc(count)
        self._outcomes.clear()
        for tally in (*self.phases, self.total, self._batches):
            tally.flush()
        self._queue.set(self._model.held)


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
