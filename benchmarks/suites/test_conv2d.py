"""Convolutions alone, all three directions, and with BatchNorm and ReLU after them.

``fastbn bench conv`` compares them with PyTorch's.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from fastbn.bench import conv


@functools.lru_cache(maxsize=1)
def calls(name: str) -> dict[str, Any]:
    """The arrays of one case at a time: pytest runs the cases in their order."""
    return conv.ours(conv.CASES[name], conv.OPS)


@pytest.mark.parametrize("op", [*conv.OPS, conv.ALONE])
@pytest.mark.parametrize("name", conv.CASES)
def test_conv2d(benchmark: Any, name: str, op: str, threads: int) -> None:
    benchmark.group = f"{name}, threads {threads}"
    benchmark.extra_info |= {"gflop": conv.CASES[name].flops_of(op) / 1e9, "threads": threads}
    benchmark(calls(name)[op])
