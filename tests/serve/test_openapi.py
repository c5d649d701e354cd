"""The API description matches the server: schemathesis sends what it describes, checks answers."""

import pytest
from hypothesis import HealthCheck, given, settings
from serve_harness import Running

from cupola.serve.http.routing import KEPT_LENGTH, Route, Router
from cupola.serve.routes import ROUTER
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
UNDESCRIBED = {"/", "/status", "/openapi.json"} | {
    route.path for route in ROUTER.routes if route.path.startswith("/pages/")
}


def test_routes_are_kept_for_short_paths_only() -> None:
    router = Router([Route("GET", "/a/{x}", print)], {})
    for name in ("b", "b", "c%2Fd", "e" * KEPT_LENGTH):
        assert router.match("GET", f"/a/{name}/") == (print, (name.replace("%2F", "/"),))
    assert router._found.cache_info()[:2] == (1, 2)  # hits, misses


def test_all_routes_but_pages_are_described(shared: Running) -> None:
    described = shared.get("/openapi.json")[1]["paths"]
    assert set(described) == {route.path for route in ROUTER.routes} - UNDESCRIBED
    for route in ROUTER.routes:
        if route.path not in UNDESCRIBED:
            operation = described[route.path][route.method.lower()]
            assert operation["summary"] and operation["responses"], route.path


def test_path_parameters_are_described(shared: Running) -> None:
    for path, item in shared.get("/openapi.json")[1]["paths"].items():
        names = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert {p["name"] for p in item.get("parameters", [])} == names, path


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
    """Makes most requests reach a model, and none time out."""
    for entry in document["paths"].values():
        for parameter in entry.get("parameters", []):
            if parameter["name"] == "model_name":
                parameter["schema"] = {"enum": ["echo", "speaker", "nobody"]}
        for parameter in entry.get("post", {}).get("parameters", []):
            if parameter["name"] == "X-Request-Timeout":
                parameter["schema"] = {"type": "number", "minimum": 30}
