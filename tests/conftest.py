"""Two and four ranks, started once for all tests of the folder."""

from collections.abc import Iterator

import pytest

from ranks import RankPool


@pytest.fixture(scope="session", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[RankPool]:
    pool = RankPool(request.param)
    yield pool
    pool.close()
