"""Prometheus metrics over all workers, through prometheus_client's memory-mapped files.

Each worker writes files named after its slot. A respawned worker reuses them, so counters survive
a crash and the number of files is bounded. Times are in seconds.
"""

import asyncio
import os
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
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
from cupola.serve.worker.status_metrics import StatusCollector
from cupola.serve.worker.telemetry import WorkerTelemetry

FILE_SIZE = 128 * 1024  # bytes of each file, for about 8 models; beyond, the library grows it
FLUSH_INTERVAL = 0.1  # seconds until a count reaches the files
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PHASES = ("queue", "batch", "run", "encode")
_value_by_slot: Any = values.MultiProcessValue  # the library does not annotate these two
_add_worker_files: Any = MultiProcessCollector


def _allocate(folder: Path, slot: int) -> None:
    """Allocates the files that the library leaves sparse: on a full disk, a write is a SIGBUS."""
    for kind in ("counter", "histogram", "gauge_sum"):
        fd = os.open(folder / f"{kind}_{slot}.db", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, FILE_SIZE)
        finally:
            os.close(fd)


class Metrics:
    """The metrics of a worker; one instance per process, made after the fork.

    A request only updates plain numbers. They are written to the mapped files together, every
    `FLUSH_INTERVAL`, because those writes are too slow to do per request.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        _allocate(folder, slot)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = _value_by_slot(process_identifier=lambda: slot)
        self._folder = str(folder)
        own = CollectorRegistry()
        model = ["model", "version"]
        self._requests = Counter(
            "cupola_requests", "HTTP requests by status.", ["status"], registry=own
        )
        self.inferences = Counter(
            "cupola_inferences", "Inference requests by outcome.", [*model, "outcome"], registry=own
        )
        self.tokens = Counter(
            "cupola_tokens", "Tokens of language models: prompt, reused (of it), generated.",
            [*model, "kind"], registry=own,
        )  # fmt: skip
        self.phases = Histogram(
            "cupola_phase_seconds", "Latency by phase: queue, batch, run, encode.",
            [*model, "phase"], buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.total = Histogram(
            "cupola_request_seconds", "Time from the first byte of the request to the answer.",
            model, buckets=SECONDS, registry=own,
        )  # fmt: skip
        self.batches = Histogram(
            "cupola_batch_size", "Samples in a batch.", model, buckets=BATCHES, registry=own
        )
        self.queue = Gauge(
            "cupola_queue_depth", "Requests in flight or waiting; images count by size.", model,
            multiprocess_mode="sum", registry=own,
        )  # fmt: skip
        self.connections = Gauge(
            "cupola_connections", "Open connections.", multiprocess_mode="sum", registry=own
        )
        self.telemetry: WorkerTelemetry | None = None
        self._statuses: dict[int, int] = {}
        self._models: dict[Model, ModelMetrics] = {}
        self._flush_scheduled = False

    def for_model(self, model: Model) -> "ModelMetrics":
        """The metrics of one model."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self, model)
        return self._models[model]

    def count_request(self, status: int) -> None:
        """Counts an HTTP request."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self.schedule_flush()

    def schedule_flush(self) -> None:
        """Makes sure that new counts are written soon."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL, self.flush)

    def flush(self) -> None:
        """Writes the new counts to the files."""
        self._flush_scheduled = False
        for status, count in self._statuses.items():
            self._requests.labels(str(status)).inc(count)
        self._statuses.clear()
        for counts in self._models.values():
            counts.flush()
        self._models = {model: kept for model, kept in self._models.items() if model.connections}

    def text(self, status: dict[str, Any], runners: list[dict[str, Any]]) -> bytes:
        """The metrics of all workers, and those derived from the master's and zygote's status."""
        self.flush()
        registry = CollectorRegistry()
        _add_worker_files(registry, path=self._folder)
        registry.register(StatusCollector(status, runners))
        return bytes(generate_latest(registry))


class BufferedHistogram:
    """Observations that reach the histogram at the next flush. `total` is never reset."""

    def __init__(self, histogram: Any, bounds: Sequence[float]) -> None:
        self._histogram, self._bounds = histogram, bounds
        self._values: list[float] = []
        self.total = 0.0
        self.add = self._values.append  # adds one observation

    def flush(self) -> None:
        """Adds the buffer to the histogram; the library has no public method for many at once."""
        values, done = self._values, 0
        values.sort()
        ends = [bisect_right(values, bound) for bound in self._bounds]
        for bucket, end in zip(self._histogram._buckets, [*ends, len(values)], strict=True):
            if end > done:
                bucket.inc(end - done)
                done = end
        total = sum(values)
        if total:
            self._histogram._sum.inc(total)
        self.total += total
        values.clear()


class ModelMetrics:
    """The metrics of one model in one worker. Label lookups are slow, so they are done once."""

    def __init__(self, metrics: Metrics, model: Model) -> None:
        labels = (model.name, model.version)
        self._metrics, self._model = metrics, model
        self.telemetry = metrics.telemetry
        self.phases = [
            BufferedHistogram(metrics.phases.labels(*labels, phase), SECONDS) for phase in PHASES
        ]
        self.total = BufferedHistogram(metrics.total.labels(*labels), SECONDS)
        self._batches = BufferedHistogram(metrics.batches.labels(*labels), BATCHES)
        self._queue = metrics.queue.labels(*labels)
        self._outcomes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self.answers = self.failures = self.samples = self.hits = self.misses = 0
        self.last = 0.0  # time of the last answer, in seconds since 1970

    def record_answer(self, answer: Frame, seconds: float) -> None:
        """Records an answer with the times measured by the runner."""
        if answer.status != 200:
            self.record_end(str(answer.status))
            return
        self.answers += 1
        self.samples += answer.samples
        self.total.add(seconds)
        for histogram, phase in zip(self.phases, answer.times, strict=True):
            histogram.add(phase if phase > 0.0 else 0.0)
        self._batches.add(answer.batch)
        self.last = time.time()
        if self.telemetry is not None:
            self.telemetry.record_phases(self._model, answer.times)
        self._count("ok")

    def record_end(self, outcome: str) -> None:
        """Records a stream, or a request without a complete answer."""
        self.failures += outcome != "ok"
        self._count(outcome)

    def record_tokens(self, data: Mapping[str, Any], *, first: bool) -> None:
        """Records a chunk of a language model; `first` of its stream."""
        counts = {"generated": int(data.get("token_id") is not None)}
        if first:
            counts["prompt"] = data.get("prompt_tokens", 0)
            counts["reused"] = data.get("reused_tokens", 0)
        for kind, count in counts.items():
            self._tokens[kind] = self._tokens.get(kind, 0) + count
        self._metrics.schedule_flush()

    def _count(self, outcome: str) -> None:
        if self.telemetry is not None:
            self.telemetry.record_end(self._model, outcome)
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._metrics.schedule_flush()

    def flush(self) -> None:
        """Writes the new counts to the files."""
        for outcome, count in self._outcomes.items():
            labels = (self._model.name, self._model.version, outcome)
            self._metrics.inferences.labels(*labels).inc(count)
        self._outcomes.clear()
        for kind, count in self._tokens.items():
            self._metrics.tokens.labels(self._model.name, self._model.version, kind).inc(count)
        self._tokens.clear()
        for histogram in (*self.phases, self.total, self._batches):
            histogram.flush()
        self._queue.set(self._model.held)
