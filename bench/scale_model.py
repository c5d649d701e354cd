"""A fleet of servers in simulation: arrivals, a balancer, batches, queue limits, an autoscaler.

Times are in seconds of the simulation. Each node has some runners; a free runner takes up to
`max_batch` of the node's waiting requests, as ours do, and is busy for `fixed + each * size`. The
balancer sends a request to the less busy of two random nodes, as Envoy's least-request does. The
autoscaler follows Knative's, which KServe uses: the mean of the requests in flight over a stable
window, or over a short one when that is twice what the nodes are meant for.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

STABLE, PANIC, TICK = 60.0, 6.0, 2.0  # windows and period of the autoscaler


@dataclass(frozen=True)
class Service:
    """What one node does: measured seconds of a batch, and its settings."""

    fixed: float  # seconds of a batch, whatever its size
    each: float  # further seconds of each request in it
    runners: int = 1
    max_batch: int = 8
    queue_limit: int = 256
    random: bool = False  # exponential times with that mean instead, to compare with formulas

    def rate(self, batch: int | None = None) -> float:
        """The most requests a second of a node, with full batches or those of a size."""
        size = batch or self.max_batch
        return self.runners * size / (self.fixed + self.each * size)


@dataclass(frozen=True)
class Scaler:
    """An autoscaler: the requests in flight that a node is meant for, and limits."""

    target: float
    least: int = 1
    most: int = 10_000
    start_seconds: float = 20.0  # until a new node is ready


@dataclass
class Node:
    waiting: deque[float] = field(default_factory=deque)  # arrival times
    busy: int = 0  # runners
    held: int = 0  # requests in flight or waiting
    alive: bool = True


@dataclass
class Outcome:
    """What happened after the warm-up. `nodes`: (time, ready nodes) at each tick."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    lost: int = 0  # held by a node that died; clients or the ingress send them again
    nodes: list[tuple[float, int]] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) if self.seconds else math.inf

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.refused + len(self.seconds))


class Fleet:
    """Simulates `nodes` nodes for `duration` seconds under `load`, requests a second at a time."""

    def __init__(
        self,
        service: Service,
        nodes: int,
        load: Callable[[float], float],
        duration: float,
        *,
        scaler: Scaler | None = None,
        warm_up: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.service, self.load, self.duration = service, load, duration
        self.scaler, self.warm_up = scaler, warm_up
        self.random = np.random.default_rng(seed)
        self.nodes = [Node() for _ in range(nodes)]
        self.starting = 0
        self.events: list[tuple[float, int, str, object]] = []
        self.number = 0
        self.history: deque[tuple[float, int]] = deque()
        self.outcome = Outcome()
        self.failures: list[tuple[float, float]] = []

    def fail(self, at: float, share: float) -> "Fleet":
        """A share of the nodes dies at a moment."""
        self.failures.append((at, share))
        return self

    def run(self) -> Outcome:
        """Runs to the end."""
        self._at(0.0, "arrival", None)
        self._at(0.0, "tick", None)
        for at, share in self.failures:
            self._at(at, "failure", share)
        while self.events:
            now, _, kind, what = heapq.heappop(self.events)
            if now > self.duration:
                break
            getattr(self, f"_{kind}")(now, what)
        return self.outcome

    def _at(self, when: float, kind: str, what: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, kind, what))

    def _arrival(self, now: float, _: object) -> None:
        self._at(now + self.random.exponential(1.0 / self.load(now)), "arrival", None)
        if not self.nodes:
            self.outcome.refused += now >= self.warm_up
            return
        first, second = (self.random.random(2) * len(self.nodes)).astype(int)
        node = min(self.nodes[first], self.nodes[second], key=lambda node: node.held)
        if node.held >= self.service.queue_limit:
            self.outcome.refused += now >= self.warm_up
            return
        node.held += 1
        node.waiting.append(now)
        self._start(now, node)

    def _start(self, now: float, node: Node) -> None:
        service = self.service
        while node.waiting and node.busy < service.runners:
            size = min(len(node.waiting), service.max_batch)
            batch = [node.waiting.popleft() for _ in range(size)]
            node.busy += 1
            seconds = service.fixed + service.each * size
            if service.random:
                seconds = self.random.exponential(seconds)
            self._at(now + seconds, "done", (node, batch))

    def _done(self, now: float, what: object) -> None:
        node, batch = what  # type: ignore[misc]
        if not node.alive:
            return
        node.busy -= 1
        node.held -= len(batch)
        self.outcome.seconds += [now - began for began in batch if began >= self.warm_up]
        self._start(now, node)

    def _failure(self, now: float, share: object) -> None:
        for _ in range(round(len(self.nodes) * float(share))):  # type: ignore[arg-type]
            node = self.nodes.pop()
            node.alive = False
            self.outcome.lost += node.held

    def _ready(self, now: float, _: object) -> None:
        self.starting -= 1
        self.nodes.append(Node())

    def _tick(self, now: float, _: object) -> None:
        self._at(now + TICK, "tick", None)
        self.outcome.nodes.append((now, len(self.nodes)))
        self.history.append((now, sum(node.held for node in self.nodes)))
        while self.history[0][0] < now - STABLE:
            self.history.popleft()
        if self.scaler is not None:
            self._scale(now, self.scaler)

    def _scale(self, now: float, scaler: Scaler) -> None:
        stable = float(np.mean([held for _, held in self.history]))
        short = float(np.mean([held for at, held in self.history if at >= now - PANIC]))
        ready = len(self.nodes)
        panic = short / scaler.target >= 2 * max(1, ready)
        wanted = math.ceil((short if panic else stable) / scaler.target)
        wanted = min(scaler.most, max(scaler.least, wanted))
        for _ in range(max(0, wanted - ready - self.starting)):
            self.starting += 1
            self._at(now + scaler.start_seconds, "ready", None)
        if wanted < ready and not panic and now >= STABLE:
            idle = [node for node in self.nodes if not node.held][: ready - wanted]
            self.nodes = [node for node in self.nodes if all(node is not each for each in idle)]
