"""bench/scale.py: the simulation agrees with queueing theory, and its tables are printed."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from scale_model import Fleet, Scaler, Service

SCRIPT = Path(__file__).parents[2] / "bench/scale.py"


def test_one_server_waits_as_the_formula_says() -> None:
    """M/M/1: the mean time in the system is 1 / (rate of service - rate of arrival)."""
    service = Service(0.01, 0.0, max_batch=1, queue_limit=10**6, random=True)
    found = Fleet(service, 1, lambda _: 60.0, 500.0, warm_up=20.0).run()
    assert sum(found.seconds) / len(found.seconds) == pytest.approx(1 / (100 - 60), rel=0.15)
    assert found.refused == 0


def test_service_times_without_a_queue() -> None:
    service = Service(0.002, 0.003, runners=4)
    found = Fleet(service, 2, lambda _: 1.0, 200.0).run()
    assert found.percentile(50) == pytest.approx(0.005)
    assert service.rate() == pytest.approx(4 * 8 / 0.026)


def test_more_than_the_nodes_can_do_is_refused() -> None:
    service = Service(0.0, 0.01, queue_limit=20)
    found = Fleet(service, 2, lambda _: 400.0, 40.0, warm_up=5.0).run()
    assert found.refused_share == pytest.approx(0.5, abs=0.05)
    assert found.percentile(100) <= (20 + 8) * 0.01 + 1e-9


def test_a_failure_loses_what_the_nodes_held() -> None:
    service = Service(0.0, 0.01)
    found = Fleet(service, 4, lambda _: 100.0, 10.0).fail(5.0, 0.5).run()
    assert 0 < found.lost < 40 and found.nodes[-1][1] == 2


def test_the_autoscaler_follows_the_load() -> None:
    service, scaler = Service(0.0, 0.01), Scaler(target=4.0, start_seconds=3.0)
    fleet = Fleet(service, 1, lambda now: 20.0 if now < 70 else 300.0, 200.0, scaler=scaler)
    nodes = dict(fleet.run().nodes)
    assert nodes[60.0] == 1 and nodes[72.0] == 1
    assert nodes[190.0] >= 3


@pytest.mark.slow
def test_the_tables() -> None:
    command = [sys.executable, str(SCRIPT), "--fixed", "0.01", "--each", "0.002"]
    done = subprocess.run(
        [*command, "--quick", "--seconds", "2", "--start-seconds", "2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("| ---") for line in lines) == 4
    assert "500 requests a second" in lines
