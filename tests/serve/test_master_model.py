"""The master under random schedules of signals, exits and failures: it ends only when told to.

A failing schedule is printed and replayed by `hypothesis.reproduce_failure`, or as an argument of
`Simulation.run`; the schedules of a seed are always the same.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from master_model import Simulation

SLOW_BATCHES, BATCH = 100, 1000  # 100,000 schedules
SCHEDULES = st.binary(min_size=1, max_size=80)


@pytest.fixture(scope="module")
def simulation() -> Iterator[Simulation]:
    with pytest.MonkeyPatch.context() as patch:
        yield Simulation(patch)


def check(simulation: Simulation, number: int, examples: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(SCHEDULES)
    def run(schedule: bytes) -> None:
        simulation.run(schedule)

    run()


def test_the_master_ends_only_when_told_to(simulation: Simulation) -> None:
    check(simulation, 0, 500)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, SLOW_BATCHES + 1))
def test_the_master_ends_only_when_told_to_100_000(simulation: Simulation, number: int) -> None:
    check(simulation, number, BATCH)


def test_a_schedule_of_every_action_is_run(simulation: Simulation) -> None:
    system = simulation.run(bytes(range(1, 250)))
    assert system.was_ready and system.told_to_stop and len(system.log) > 10
