"""deploy/grafana and deploy/alerts: every expression returns data of a running server.

promtool and prometheus are Debian's; .ci/run installs them.
"""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from serve_harness import Running, free_port, until, write_bundle

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/alerts/cupola.rules.yaml"
DASHBOARD = ROOT / "deploy/grafana/cupola.json"
UNITS = Path(__file__).parent / "alerts.test.yaml"
COMPARISON = re.compile(r"\s(==|<|>)\s[\d.]+$")


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)


def alerts() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> list[str]:
    """Those of the panels and annotations, with the values of the variables, and of the alerts
    without their limits; for 5 seconds instead of minutes."""
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    found += [each["expr"] for each in dashboard()["annotations"]["list"]]
    found += [rule["expr"] for rule in alerts()]
    values = {"$__rate_interval": "5s", "$instance": ".*", "$model": ".*"}
    for name, value in values.items():
        found = [each.replace(name, value) for each in found]
    return [re.sub(r"\[\d+m\]", "[5s]", COMPARISON.sub("", each)) for each in found]


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:cupola_\w+|up)\b(?=[{)\[ ]|$)", expression))


def test_the_rules_are_valid_and_fire() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0 and f"{len(alerts())} rules found" in done.stdout, done.stderr
    done = promtool("test", "rules", UNITS)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        case["alertname"]
        for test in yaml.safe_load(UNITS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == {rule["alert"] for rule in alerts()}


def test_the_panels_fit_the_dashboard() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    variables = {each["name"] for each in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__rate_interval", "__all"}
    assert used == variables


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """A server that has answered, failed and restarted, and a Prometheus that scrapes it."""
    bundles = [write_bundle(tmp_path, "echo"), write_bundle(tmp_path, "speaker", task="language")]
    server = Running(tmp_path / "server", models=[str(bundle) for bundle in bundles], queue_limit=2)
    server.start()
    server.wait_ready()
    port = free_port()
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {"job_name": "cupola", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}
        ],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as data, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path / 'prometheus.yaml'}",
             f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        yield server, f"http://127.0.0.1:{port}"
        process.kill()
        process.wait()
    server.stop()


def work(server: Running) -> None:
    """Requests of every kind, some of them too many at once."""
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: server.infer(do="sleep", s=0.05)[0], range(4)))
    assert 200 in statuses
    server.infer(x=[1.0, 2.0], do="fail")
    body = json.dumps({"model": "speaker", "prompt": "a", "max_tokens": 3, "stream": True})
    server.ask("POST", "/v1/completions", body)
    server.get("/v2/models/none")


def query(url: str, expression: str) -> str:
    done = promtool("query", "instant", url, expression)
    assert done.returncode == 0, f"{expression}: {done.stderr}"
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.processes
def test_every_expression_returns_data(prometheus: tuple[Running, str]) -> None:
    server, url = prometheus
    until(lambda: promtool("query", "instant", url, "up").returncode == 0, 60, "prometheus")
    assert len(expressions()) >= 25
    known = set(re.findall(r"^(cupola_\w+)[{ ]", server.get("/metrics")[1].decode(), re.MULTILINE))
    for _ in range(30):
        work(server)
        time.sleep(0.2)
    known |= set(re.findall(r"^(cupola_\w+)[{ ]", server.get("/metrics")[1].decode(), re.MULTILINE))
    missing = {name for each in expressions() for name in metrics_of(each)} - known - {"up"}
    assert missing == set()
    empty = list(expressions())
    end = time.monotonic() + 30
    while empty and time.monotonic() < end:
        work(server)
        empty = [each for each in empty if not query(url, each)]
    assert empty == []
