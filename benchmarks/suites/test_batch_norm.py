"""batch_norm + ReLU on ResNet-50's shapes, beside a copy and a triad of the same tensor.

`pytest benchmarks/suites --benchmark-only --benchmark-autosave` on one commit and
`--benchmark-compare` on another tell what changed between them. `fastbn bench kernels` compares
with the peers.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from fastbn.bench import cases, kernels
from fastbn.bench.ours import Ours
from fastbn.bench.shapes import shapes

CASES = kernels.cases(shapes("resnet50"), cases.LAYOUTS, ["float32"])
CALLS = (*cases.ALONE, "copy", "copy stream", "triad", "triad stream")


@functools.lru_cache(maxsize=1)
def ours(case: cases.Case) -> Ours:
    """The arrays of one case at a time: pytest runs the cases in their order."""
    return Ours(case, cases.ALONE)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.shape.name}-{case.layout}")
def test_batch_norm(benchmark: Any, case: cases.Case, call: str, threads: int) -> None:
    benchmark.group = f"{case.shape.name} {case.layout}, threads {threads}"
    benchmark.extra_info |= {"shape": case.array_shape, "threads": threads}
    benchmark(ours(case).calls[call])
