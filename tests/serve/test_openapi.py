"""The API's description is true: schemathesis asks what it says, and checks the answers."""

import pytest
from hypothesis import HealthCheck, given, settings
from serve_harness import Running

from cupola.serve.worker import app
from lazy import LazyModule

schemathesis = LazyModule("schemathesis")
pytestmark = pytest.mark.processes
CHECKED = {
    "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index",
    "/v2/models/{model_name}", "/v2/models/{model_name}/ready", "/v2/models/{model_name}/config",
    "/v2/models/{model_name}/stats", "/v2/models/{model_name}/infer", "/v1/models",
    "/v1/completions", "/v1/chat/completions", "/status.json", "/metrics",
}  # fmt: skip
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_schema_conformance"]  # fmt: skip


def test_every_path_is_described_and_every_described_path_exists(shared: Running) -> None:
    described = set(shared.get("/openapi.json")[1]["paths"])
    known = {path for path in app.EXACT if path not in ("/", "/status", "/openapi.json")}
    for act in app.OF_MODEL:
        tail = f"/{act}" if act else ""
        known.add(f"/v2/models/{{model_name}}{tail}")
        known.add(f"/v2/models/{{model_name}}/versions/{{model_version}}{tail}")
    known |= {f"/v2/repository/models/{{model_name}}/{act}" for act in app.OF_REPOSITORY}
    assert described == known


@pytest.mark.parametrize("path", sorted(CHECKED))
def test_answers_conform(shared: Running, path: str) -> None:
    schemathesis.checks.load_all_checks()
    document = shared.get("/openapi.json")[1]
    document["paths"] = {path: document["paths"][path]}
    _steer(document)
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=f"http://127.0.0.1:{shared.port}")
    chosen = [c for c in schemathesis.checks.CHECKS.get_all() if c.__name__ in CHECKS]
    (operation,) = [result.ok() for result in schema.get_all_operations()]

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case) -> None:
        case.call_and_validate(checks=chosen)

    ask()


def _steer(document: dict) -> None:
    """Most requests should reach a model, and none run out of time."""
    for entry in document["paths"].values():
        for parameter in entry.get("parameters", []):
            if parameter["name"] == "model_name":
                parameter["schema"] = {"enum": ["echo", "speaker", "nobody"]}
        for parameter in entry.get("post", {}).get("parameters", []):
            if parameter["name"] == "X-Request-Timeout":
                parameter["schema"] = {"type": "number", "minimum": 30}
