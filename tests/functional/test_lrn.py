"""Local response normalisation: any window, constants and layout, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, TOLERANCE, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference


@settings(max_examples=80)
@given(
    rows=st.integers(1, 40),
    channels=st.sampled_from([1, 2, 3, 15, 16, 17, 33, 100]),
    size=st.integers(1, 40),
    beta=st.sampled_from([0.75, 0.5, -0.3, 0.0]),
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
    dtype=st.sampled_from([np.float32, np.float64]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_equals_reference(
    rows: int, channels: int, size: int, beta: float, scale: float, dtype: type, layout: str
) -> None:
    rng, tolerance = np.random.default_rng((rows, channels, size)), TOLERANCE[np.dtype(dtype)]
    x = LAYOUTS[layout]((scale * rng.standard_normal((rows, channels))).astype(dtype))
    dy = rng.standard_normal(x.shape).astype(dtype)
    y, saved = F.local_response_norm(x, size, 0.7, beta, 0.5)
    y64, saved64 = reference.local_response_norm(x, size, 0.7, beta, 0.5)
    assert error(y, y64) < tolerance
    dx64 = reference.local_response_norm_backward(dy, saved64)
    terms = np.abs(dy * saved64[1] ** -beta)  # dx is the difference of two of this size
    dx = F.local_response_norm_backward(dy, saved)
    assert error(dx, dx64, terms) < tolerance
    dx = F.local_response_norm_backward(dy, saved, out=dy)
    assert dx is dy
    assert error(dx, dx64, terms) < tolerance


def test_a_window_wider_than_any_row_is_the_whole_row() -> None:
    x = np.arange(1.0, 4.0)[None]
    y, _ = F.local_response_norm(x, 2**20, alpha=2.0**20, k=0.0, beta=0.5)
    np.testing.assert_allclose(y, x / np.sqrt(14.0))


def test_numbers_that_are_not_finite_stay_in_their_windows() -> None:
    x = np.ones((1, 9))
    x[0, 2] = np.nan
    y, _ = F.local_response_norm(x, 3)
    assert np.isnan(y[0]).tolist() == [False, True, True, True] + [False] * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.local_response_norm(x, 0), "size should be at least 1, got 0"),
        (lambda x: F.local_response_norm(x, 2.5), "size: expected an int"),
        (lambda x: F.local_response_norm(x, 3, -1.0), "alpha should be finite and >= 0"),
        (lambda x: F.local_response_norm(x, 3, beta=np.inf), "beta should be finite"),
        (lambda x: F.local_response_norm(x, 3, k=np.nan), "k should be finite and >= 0"),
        (lambda x: F.local_response_norm(x, 3, out=x), "out must not overlap x"),
        (lambda x: F.local_response_norm(np.array(1.0), 3), "expected an axis of channels"),
        (lambda x: F.local_response_norm_backward(x, F.relu(x)[1]), "LRNSaved"),
        (
            lambda x: F.local_response_norm_backward(x, type(F.local_response_norm(x, 3)[1])()),
            "saved is not what local_response_norm returned",
        ),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(np.ones((2, 3)))
