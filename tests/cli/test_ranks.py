"""What each rank gets of its machine."""

from __future__ import annotations

from typing import Any

import pytest

import fastbn
from fastbn.cli import ranks


class Fake:
    """A rank on a machine with others, by (host, cores)."""

    def __init__(self, rank: int, told: list[tuple[str, list[int]]]) -> None:
        self.rank, self.told = rank, told
        self.hosts = [host for host, _ in told]
        self.processes = [100 + n for n in range(len(told))]
        self.size = len(told)

    def exchange(self, value: Any) -> list[Any]:
        assert value == self.told[self.rank]
        return self.told


ALL, LOW, HIGH = [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("told", "cores", "threads"),
    [
        ([("a", ALL)], ALL, 8),
        ([("a", ALL)] * 4, ALL, 2),
        ([("a", ALL), ("b", ALL), ("a", ALL)], ALL, 4),
        ([("a", LOW), ("a", HIGH)], LOW, 4),  # bound by mpiexec
        ([("a", LOW)] * 8, LOW, 1),  # more ranks than cores
    ],
)
def test_cores_are_divided(
    told: list[tuple[str, list[int]]],
    cores: list[int],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(ranks.os, "sched_getaffinity", lambda _: set(cores), raising=False)
    monkeypatch.setattr(fastbn, "get_num_threads", lambda: len(cores))
    assert ranks.threads_of_a_rank(Fake(0, told)) == threads  # type: ignore[arg-type]


def test_what_the_environment_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(fastbn, "get_num_threads", lambda: 3)
    assert ranks.threads_of_a_rank(Fake(0, [("a", ALL)] * 4)) == 3  # type: ignore[arg-type]


def test_introduction() -> None:
    fake: Any = Fake(0, [("a", ALL), ("b", ALL), ("a", ALL)])
    assert ranks.introduce(fake) == "3 ranks, processes 100, 102 on a; 101 on b"
