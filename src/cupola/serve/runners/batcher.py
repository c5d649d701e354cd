"""Which samples run together: equal buckets, up to a size, after at most a delay."""

import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from cupola.serve.runners.codec import Request


@dataclass
class Job:
    """One request inside a runner. Moments are on the monotonic clock, in seconds."""

    id: str
    connection: Any
    request: Request
    samples: list[Any]
    received: float
    deadline: float
    alone: bool = False  # it was there when another runner died
    predictions: dict[int, Any] = field(default_factory=dict)
    cancelled: bool = False
    queued: float = 0.0
    began: float = 0.0
    run_seconds: float = 0.0
    batch: int = 0

    @property
    def unwanted(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.cancelled or time.monotonic() > self.deadline


@dataclass
class Item:
    """One sample of a job."""

    job: Job
    index: int


class Batcher:
    """Waiting samples by bucket. `delay` in seconds."""

    def __init__(self, max_batch: int, delay: float) -> None:
        self.max_batch = max_batch
        self.delay = delay
        self._queues: dict[Hashable, deque[Item]] = {}
        self.jobs: dict[str, Job] = {}

    def add(self, job: Job, buckets: list[Hashable]) -> None:
        """Queues every sample of a job."""
        job.queued = time.monotonic()
        self.jobs[job.id] = job
        for index, bucket in enumerate(buckets):
            key = ("alone", job.id) if job.alone else ("bucket", bucket)
            self._queues.setdefault(key, deque()).append(Item(job, index))

    def cancel(self, job_id: str) -> None:
        """The client has left: what has not run will not."""
        if job := self.jobs.get(job_id):
            job.cancelled = True

    def wait(self) -> float | None:
        """Seconds until a batch is due; None if nothing waits."""
        moments = [
            0.0 if len(queue) >= self.max_batch else queue[0].job.queued + self.delay
            for queue in self._queues.values()
        ]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def take(self) -> list[Item]:
        """The due batch of the bucket that has waited longest; empty if none is due."""
        now, due = time.monotonic(), []
        for key, queue in self._queues.items():
            if len(queue) >= self.max_batch or now >= queue[0].job.queued + self.delay:
                due.append((queue[0].job.queued, key))
        if not due:
            return []
        key = min(due, key=lambda entry: entry[0])[1]
        queue = self._queues[key]
        batch: list[Item] = []
        while queue and len(batch) < self.max_batch:
            item = queue.popleft()
            if item.job.unwanted:
                self.jobs.pop(item.job.id, None)
            else:
                batch.append(item)
        if not queue:
            del self._queues[key]
        return batch
