"""What all suites share: numbers of threads, and how long a benchmark takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastbn

MOST = fastbn.get_num_threads()


@pytest.fixture(params=sorted({1, MOST}), ids=lambda number: f"threads{number}", scope="session")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    fastbn.set_num_threads(request.param)
    yield request.param
    fastbn.set_num_threads(MOST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(max_time=0.2, min_rounds=5, warmup=True))
