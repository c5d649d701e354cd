"""Metrics derived from the status files of the master and the zygote."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class StatusCollector(Collector):
    """Processes, signals, respawns and runners as metrics."""

    def __init__(self, status: dict[str, Any], runners: list[dict[str, Any]]) -> None:
        self._status, self._runners = status, runners
        self._processes = status.get("processes", [])

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "cupola_generation", "The current generation.", self._status.get("generation", 0)
        )
        states: Counter[tuple[str, ...]] = Counter(
            (child["role"], child["state"]) for child in self._processes
        )
        yield _gauge(
            "cupola_processes", "Child processes of the master.", ["role", "state"], states
        )
        signals = CounterMetricFamily("cupola_signals", "Signals taken.", labels=["flag"])
        for flag, count in self._status.get("signals", {}).items():
            signals.add_metric([flag], count)
        yield signals
        yield self._respawns()
        recycles = sum(runner.get("recycles", 0) for runner in self._runners)
        yield CounterMetricFamily("cupola_runner_recycles", "Runners replaced.", recycles)
        ready: Counter[tuple[str, ...]] = Counter()
        for runner in self._runners:  # of two in the same place, one replaces the other
            labels = (runner["name"], runner["version"], str(runner["index"]))
            ready[labels] = max(ready[labels], int(runner["state"] == "ready"))
        yield _gauge(
            "cupola_runner_ready", "Whether the runner is ready.",
            ["model", "version", "index"], ready,
        )  # fmt: skip

    def _respawns(self) -> Metric:
        counts: Counter[str] = Counter()
        for child in self._processes:
            counts[child["role"]] += child["respawns"]
        counts["runner"] = sum(runner["respawns"] for runner in self._runners)
        family = CounterMetricFamily("cupola_respawns", "Processes respawned.", labels=["role"])
        for role, count in counts.items():
            family.add_metric([role], count)
        return family


def _gauge(
    name: str, text: str, labels: list[str], values: Counter[tuple[str, ...]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
