"""Windows that other tests of pooling are too small for: of many taps, of none, of large images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import TOLERANCE, error

from fastbn import functional as F
from fastbn import reference

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 19, 18, 11), 17, {"stride": 3, "padding": 8}),  # 289 taps: no longer a byte
        ((1, 254, 2, 33), (254, 1), {}),  # the last that a byte holds
        ((1, 255, 2, 33), (255, 1), {"padding": (3, 0)}),
        ((9, 112, 112, 24), 2, {"ceil_mode": True}),  # dx bypasses the caches
        ((9, 113, 111, 24), 3, {"stride": 2, "padding": 1}),
    ],
)
def test_equals_reference(
    op: str, shape: Any, kernel: Any, options: Any, dtype: Any, rng: np.random.Generator
) -> None:
    x = rng.integers(-3, 4, shape).astype(dtype)  # with ties
    y, saved = getattr(F, op)(x, kernel, **options)
    y64, saved64 = getattr(reference, op)(x, kernel, **options)
    assert error(y, y64) < TOLERANCE[x.dtype]
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = getattr(F, f"{op}_backward")(dy, saved)
    assert error(dx, getattr(reference, f"{op}_backward")(dy, saved64)) < TOLERANCE[x.dtype]


def test_a_dilated_window_may_see_nothing() -> None:
    """Taps at -1 and 1 of an input of size 1."""
    x = np.ones((1, 1, 1, 19), np.float32)
    y, saved = F.max_pool2d(x, 2, 1, 1, dilation=2)
    assert (y == -np.inf).all()
    assert not F.max_pool2d_backward(np.ones_like(y), saved).any()


@pytest.mark.parametrize("c", [1, 5, 8, 32, 35])
def test_the_first_of_equals_takes_the_gradient(c: int) -> None:
    x = np.zeros((1, 4, 4, c))
    y, saved = F.max_pool2d(x, 2)
    expected = np.zeros_like(x)
    expected[:, ::2, ::2] = 1.0
    np.testing.assert_array_equal(F.max_pool2d_backward(np.ones_like(y), saved), expected)


@pytest.mark.parametrize(
    ("name", "value"), [("kernel_size", 1.5), ("stride", (1, 2, 3)), ("padding", "1")]
)
def test_what_is_no_pair(name: str, value: Any) -> None:
    arguments = {"kernel_size": 2, name: value}
    with pytest.raises(TypeError, match=f"{name}: expected an int or a pair of ints"):
        F.max_pool2d(np.ones((1, 4, 4, 1)), **arguments)


def test_saved_of_another_operation_is_refused() -> None:
    y, saved = F.max_pool2d(np.ones((1, 4, 4, 1)), 2)
    with pytest.raises(TypeError, match="saved is not what avg_pool2d returned"):
        F.avg_pool2d_backward(y, saved)
