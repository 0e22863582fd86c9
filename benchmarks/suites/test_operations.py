"""Every operation of ``fastbn.functional``, forward and backward, on arrays that threads share.

The shapes are those of the tests (``tests/support/cases.py``). A test says so where an operation
has no case here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import LARGE

from fastbn import functional as F

Calls = tuple[Callable[[], Any], Callable[[], Any]]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape, dtype=np.float32)


def concat() -> Calls:
    x, z = normal(16, 28, 28, 64), normal(16, 28, 28, 32)
    y, saved = F.concat(x, z)
    return lambda: F.concat(x, z), lambda: F.concat_backward(y, saved)


def batch_moments() -> Calls:
    x, d = normal(16, 28, 28, 64), RNG.standard_normal(64)
    _, saved = F.batch_moments(x)
    return lambda: F.batch_moments(x), lambda: F.batch_moments_backward(d, d, saved)


def scale_shift() -> Calls:
    x, scale = normal(16, 28, 28, 64), normal(64)
    y, saved = F.scale_shift(x, scale, scale)
    return lambda: F.scale_shift(x, scale, scale), lambda: F.scale_shift_backward(y, saved)


def of_case(case: Any) -> Calls:
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    dy = 1.0 if isinstance(y, float) else y
    backward = getattr(F, f"{case.op}_backward")
    return lambda: case.forward(F, arrays), lambda: backward(dy, saved)


# What takes other arguments than an array and its parameters has a function of its own.
SPECIAL = {"batch_moments": batch_moments, "concat": concat, "scale_shift": scale_shift}
OPERATIONS: dict[str, Callable[[], Calls]] = {
    str(case): lambda case=case: of_case(case) for case in LARGE
} | SPECIAL


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(benchmark: Any, name: str, direction: str, threads: int) -> None:
    benchmark.group = f"{name}, threads {threads}"
    benchmark.extra_info["threads"] = threads
    forward, backward = OPERATIONS[name]()
    benchmark(forward if direction == "forward" else backward)
