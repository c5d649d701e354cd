"""/metrics is valid Prometheus text, whatever models are called."""

from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from serve_harness import infer_body, until, write_bundle

from cupola.serve.worker.status_metrics import StatusCollector

NAMES = ['with "quotes"', "with \\ backslash \\n", "with\nnewline", 'name,version="2"} 7\n# HELP']


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(metric, label values in the order of their names) -> value, as Prometheus parses them."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", NAMES)
def test_label_values_are_escaped(name: str) -> None:
    runner = {"name": name, "version": name, "index": 0, "state": "ready", "respawns": 3}
    registry = CollectorRegistry()
    registry.register(StatusCollector({"signals": {name: 2}}, [runner]))
    found = samples(generate_latest(registry).decode())
    assert found["cupola_runner_ready", "0", name, name] == 1
    assert found["cupola_signals_total", name] == 2
    assert found["cupola_respawns_total", "runner"] == 3


def test_a_runner_and_its_replacement_are_one_series() -> None:
    runner = {"name": "a", "version": "1", "index": 0, "state": "starting", "respawns": 0}
    registry = CollectorRegistry()
    registry.register(StatusCollector({}, [runner | {"state": "ready"}, runner]))
    lines = generate_latest(registry).decode().splitlines()
    ready = [line for line in lines if line.startswith("cupola_runner_ready{")]
    assert ready == ['cupola_runner_ready{index="0",model="a",version="1"} 1.0']


@pytest.mark.processes
def test_the_metrics_of_a_server_are_valid(serve, tmp_path) -> None:
    bundle = str(write_bundle(tmp_path / "bundles", "echo"))
    server = serve(models=[{"bundle": bundle, "name": name} for name in NAMES])
    for name in NAMES:
        path = f"/v2/models/{quote(name, safe='')}/infer"
        assert server.ask("POST", path, infer_body())[0] == 200

    def counted() -> bool:
        found = samples(server.get("/metrics")[1].decode())
        return all(found.get(("cupola_inferences_total", name, "ok", "1")) == 1 for name in NAMES)

    until(counted, what="the counts of all models")
    found = samples(server.get("/metrics")[1].decode())
    assert all(found["cupola_runner_ready", "0", name, "1"] == 1 for name in NAMES)
    assert found["cupola_generation",] == 1
    assert found["cupola_processes", "worker", "ready"] == 1
