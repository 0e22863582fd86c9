"""``fastbn bench scale``: jobs of all kinds, and the model of more ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbn.bench import scale
from fastbn.bench.scale import Row, Wire


def test_jobs_of_all_kinds(mpiexec: Path) -> None:
    rows, wire = scale.measure("mlp", 16, [2], rounds=1, steps=2)
    kinds = [(row.mode, row.ranks, row.threads, row.batch) for row in rows]
    assert kinds == [("threads", 1, 2, 16), ("strong", 2, 1, 16), ("weak", 2, 1, 32)]
    assert all(row.ms > 0.0 and 0.0 <= row.communication <= 1.0 for row in rows)
    assert wire is not None
    assert wire.latency > 0.0
    assert wire.bandwidth > 0.0


def test_model() -> None:
    one = Row("strong", 1, 1, 64, ms=64.0, cpu_ms=64.0, images_per_second=1e3, communication=0.0)
    free = scale.predicted("mlp", [one], Wire(0.0, 1e30), [1, 2, 8])
    assert free == pytest.approx({1: 1e3, 2: 2e3, 8: 8e3})
    slow = scale.predicted("mlp", [one], Wire(1e-3, 1e30), [1, 2, 8])
    # two BatchNorms, forward and backward, and two messages of the step, each in log2 n rounds
    assert slow == pytest.approx({1: 1e3, 2: 64 / 0.038, 8: 64 / 0.026})
