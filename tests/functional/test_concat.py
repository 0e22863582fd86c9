"""concat: NumPy's result, its parts on the way back, threads; what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("lead", "channels"),
    [((3, 5, 4), (1, 8, 3)), ((7,), (2, 2)), ((), (3, 1)), ((0, 2), (3, 4)), ((2, 2), (5,)),
     ((40, 31, 33), (17, 32, 3))],
)  # fmt: skip
def test_equals_the_reference(
    lead: tuple[int, ...],
    channels: tuple[int, ...],
    dtype: type,
    rng: np.random.Generator,
    set_threads: Any,
) -> None:
    xs = [rng.standard_normal((*lead, c)).astype(dtype) for c in channels]
    for threads in (1, 2):
        set_threads(threads)
        y, saved = F.concat(*xs)
        expected, saved64 = reference.concat(*xs)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected)
        dy = rng.standard_normal(y.shape).astype(dtype)
        gradients = F.concat_backward(dy, saved)
        assert len(gradients) == len(xs)
        for dx, dx64 in zip(gradients, reference.concat_backward(dy, saved64), strict=True):
            np.testing.assert_array_equal(dx, dx64)


def test_destinations_and_strided_inputs(rng: np.random.Generator) -> None:
    whole = rng.standard_normal((4, 6, 10))
    xs = whole[..., ::2], whole[:, ::-1, 1:4]
    out = np.full((4, 6, 8), np.nan)
    y, saved = F.concat(*xs, out=out)
    assert y is out
    np.testing.assert_array_equal(y, np.concatenate(xs, axis=-1))
    kept = np.full((4, 6, 3), np.nan)
    first, second = F.concat_backward(y, saved, out=(None, kept))
    assert second is kept
    np.testing.assert_array_equal(first, xs[0])
    np.testing.assert_array_equal(second, xs[1])


def test_refused() -> None:
    a, b = np.zeros((2, 3)), np.zeros((2, 4))
    with pytest.raises(ValueError, match="at least one array"):
        F.concat()
    with pytest.raises(ValueError, match="at least one axis"):
        F.concat(np.zeros(()))
    with pytest.raises(ValueError, match="must match except in the last dimension: array 1"):
        F.concat(a, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="must match except"):
        F.concat(a, np.zeros((2, 1, 3)))
    with pytest.raises(TypeError, match="array 1: expected float64"):
        F.concat(a, b.astype(np.float32))
    with pytest.raises(TypeError, match="array 0: expected float32"):
        F.concat(a.astype(np.int64))
    both = np.zeros(14)
    with pytest.raises(ValueError, match="out must not overlap array 0"):
        F.concat(both[:6].reshape(2, 3), b, out=both.reshape(2, 7))
    with pytest.raises(ValueError, match="out"):
        F.concat(a, b, out=np.zeros((2, 8)))
    y, saved = F.concat(a, b)
    with pytest.raises(ValueError, match="dy: expected shape"):
        F.concat_backward(y[:, :-1], saved)
    with pytest.raises(TypeError, match="dy: expected float64"):
        F.concat_backward(y.astype(np.float32), saved)
    with pytest.raises(ValueError, match="out: expected 2 arrays, got 1"):
        F.concat_backward(y, saved, out=(None,))
    same = np.zeros((2, 4))
    with pytest.raises(ValueError, match="out 1 must overlap neither dy nor another one"):
        F.concat_backward(y, saved, out=(same.reshape(-1)[:6].reshape(2, 3), same))
