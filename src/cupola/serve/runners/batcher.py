"""Forms batches: samples of one bucket, up to a size, after at most a delay."""

import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cupola.serve.ipc.sequence import SequenceStep
from cupola.serve.runners.codec import ParsedRequest


@dataclass(slots=True, eq=False)
class Job:
    """One request in a runner. Moments are on the monotonic clock, in seconds."""

    id: int
    connection: Any
    request: ParsedRequest
    samples: list[Any]
    received: float
    deadline: float
    alone: bool = False  # it was being processed when another runner crashed
    sequence: SequenceStep | None = None
    trace: str = ""  # W3C's traceparent of its request, if it is traced
    predictions: list[Any] = field(init=False)
    timeout: float = field(init=False)  # that was left when it was received
    missing: int = field(init=False)  # samples without a prediction
    cancelled: bool = False
    queued: float = 0.0
    began: float = 0.0
    run_seconds: float = 0.0
    batch: int = 0

    def __post_init__(self) -> None:
        self.missing = len(self.samples)
        self.timeout = self.deadline - self.received
        self.predictions = [None] * self.missing

    def is_abandoned(self, now: float) -> bool:
        """Whether no client waits for the answer any more."""
        return self.cancelled or now > self.deadline


Item: TypeAlias = tuple[Job, int]  # one sample: its job and its index there


class Batcher:
    """The waiting samples, by bucket. `delay` in seconds."""

    def __init__(self, max_batch: int, delay: float) -> None:
        self.max_batch = max_batch
        self.delay = delay
        self._queues: dict[Hashable, deque[Item]] = {}
        self.jobs: dict[int, Job] = {}

    def add(self, job: Job, buckets: list[Hashable]) -> None:
        """Queues all samples of a job."""
        job.queued = time.monotonic()
        self.jobs[job.id] = job
        for index, bucket in enumerate(buckets):
            key: tuple[str, Hashable] = ("bucket", bucket)
            if job.sequence is not None:  # its requests run in the order in which they came
                key = ("sequence", job.sequence.id)
            elif job.alone:
                key = ("alone", job.id)
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
            queue.append((job, index))

    def cancel(self, job_id: int) -> None:
        """Drops the samples of a job that have not run."""
        if job := self.jobs.get(job_id):
            job.cancelled = True

    def wait(self) -> float | None:
        """Seconds until a batch is due; None if no sample is waiting."""
        if not self._queues:
            return None
        due = min(map(self._due, self._queues.values()))
        return max(0.0, due - time.monotonic())

    def _due(self, queue: deque[Item]) -> float:
        return 0.0 if len(queue) >= self.max_batch else queue[0][0].queued + self.delay

    def take(self) -> list[Item]:
        """The due batch of the bucket that has waited longest; empty if none is due.

        Abandoned jobs are left out, except for steps of sequences: their states depend on them.
        """
        now = time.monotonic()
        due = [key for key, queue in self._queues.items() if self._due(queue) <= now]
        if not due:
            return []
        key = min(due, key=lambda key: self._queues[key][0][0].queued) if due[1:] else due[0]
        queue = self._queues[key]
        batch: list[Item] = []
        while queue and len(batch) < self.max_batch:
            job, index = queue.popleft()
            if job.is_abandoned(now) and job.sequence is None:
                self.jobs.pop(job.id, None)
            else:
                batch.append((job, index))
        if not queue:
            del self._queues[key]
        return batch
