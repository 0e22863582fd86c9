"""add: NumPy's sum, in place, threads, views; what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("terms", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (15,), (2, 17), (3, 7, 31), (5_000_011,)])
def test_equals_the_sum_from_left_to_right(
    shape: tuple[int, ...], terms: int, dtype: type, rng: np.random.Generator, set_threads: Any
) -> None:
    if shape == (5_000_011,):
        shape = shape if terms == 3 else (100_003,)
    xs = [rng.standard_normal(shape).astype(dtype) for _ in range(terms)]
    expected = xs[0]
    for x in xs[1:]:
        expected = expected + x
    for threads in (1, 2, 3, 4):
        set_threads(threads)
        y = F.add(*xs)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(reference.add(*xs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", range(4))
def test_the_sum_may_take_the_place_of_a_term(place: int, rng: np.random.Generator) -> None:
    xs = [rng.standard_normal(1003) for _ in range(6)]
    expected = reference.add(*xs)
    y = F.add(*xs, out=xs[place])
    assert y is xs[place]
    np.testing.assert_array_equal(y, expected)


def test_strided_and_misaligned_terms(rng: np.random.Generator) -> None:
    whole = rng.standard_normal((4, 6, 10)).astype(np.float32)
    raw = np.zeros(4 * 3 * 5 * 4 + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(4, 3, 5)
    odd[...] = rng.standard_normal(odd.shape)
    a, b = whole[:, ::2, ::2], whole[:, 1::2, ::-2]
    np.testing.assert_array_equal(F.add(a, b, odd), (a + b) + odd)


def test_refused() -> None:
    a = np.zeros((2, 3))
    with pytest.raises(ValueError, match="at least two arrays, got 1"):
        F.add(a)
    with pytest.raises(ValueError, match="array 1"):
        F.add(a, np.zeros((3, 2)))
    with pytest.raises(TypeError, match="array 1"):
        F.add(a, np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="array 0"):
        F.add(np.zeros(3, np.int64), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="out"):
        F.add(a, a, out=np.zeros((3, 2)))
    base = np.zeros(7)
    with pytest.raises(ValueError, match="out overlaps array 1"):
        F.add(np.zeros(6), base[:6], out=base[1:])
    fifth = np.ones(6)
    with pytest.raises(ValueError, match="out overlaps array 4"):
        F.add(*[np.zeros(6)] * 4, fifth, out=fifth)
    np.testing.assert_array_equal(fifth, 1)
