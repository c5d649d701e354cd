"""What all tests share: hypothesis settings, and pools of ranks that start once."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ranks import RankPool

# Two loaded cores make any deadline a lie; what takes long is found by pytest's --durations.
settings.register_profile(
    "cupola", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cupola")


@pytest.fixture(scope="session", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[RankPool]:
    pool = RankPool(request.param)
    yield pool
    pool.close()
