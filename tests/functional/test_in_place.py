"""Training in place: y takes the memory of x, and backward finds x again."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

IN_PLACE: list[dict[str, Any]] = [
    {"activation": None},
    {"activation": "leaky_relu", "negative_slope": 0.01},
    {"activation": "leaky_relu", "negative_slope": 1.5},
]


def error(found: Any, truth: Any) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("options", IN_PLACE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(17, 5), (5, 1), (6, 15, 3, 17), (4, 8, 50, 50)])
def test_in_place_is_as_out_of_place(
    shape: tuple[int, ...], axis: int, dtype: type, options: dict[str, Any],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    c = shape[axis]
    x = (rng.standard_normal(shape) * 3 + 1e3).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight = (rng.choice([-1, 1], c) * rng.uniform(0.2, 2, c)).astype(dtype)
    bias = rng.standard_normal(c).astype(dtype)
    call = options | {"training": True, "axis": axis}
    stats, stats_in_place = ((np.zeros(c, dtype), np.ones(c, dtype)) for _ in range(2))
    z64 = reference.batch_norm(x, weight, bias, training=True, axis=axis)[0]
    dy[np.abs(z64) < 1e-3] = 0  # where rounding may turn the sign
    y64, saved64 = reference.batch_norm(x, weight, bias, **call)
    y, _ = F.batch_norm(x, weight, bias, *stats, **call)

    out, saved = F.batch_norm(x, weight, bias, *stats_in_place, **call, out=x)
    assert out is x
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(stats_in_place, stats)
    limit = 5e-5 if dtype == np.float32 else 1e-12
    for gradient, truth in zip(
        F.batch_norm_backward(dy, saved), reference.batch_norm_backward(dy, saved64), strict=True
    ):
        assert error(gradient, truth) < limit
    np.testing.assert_array_equal(out, y)  # y is still what the caller got
    assert error(y, y64) < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 70), channels=st.integers(1, 40), seed=st.integers(0, 2**32 - 1),
    options=st.sampled_from(IN_PLACE),
)  # fmt: skip
def test_any_in_place_backward_is_close(
    rows: int, channels: int, seed: int, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, rows, channels))
    weight = rng.uniform(0.01, 1, channels)
    bias = rng.uniform(-5, 5, channels)
    saved64 = reference.batch_norm(x, weight, bias, training=True, **options)[1]
    _, saved = F.batch_norm(x, weight, bias, training=True, **options, out=x)
    for gradient, truth in zip(
        F.batch_norm_backward(dy, saved), reference.batch_norm_backward(dy, saved64), strict=True
    ):
        np.testing.assert_allclose(gradient, truth, rtol=1e-9, atol=1e-9)


def test_backward_may_go_into_dy_and_leave_gradients_out(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 20, 6)).astype(np.float32)
    _, saved = F.batch_norm(x, None, None, training=True, out=x)
    dx, _, _ = F.batch_norm_backward(dy, saved)
    assert dx is not None
    assert F.batch_norm_backward(dy, saved, need_dx=False) == (None, None, None)
    out, _, _ = F.batch_norm_backward(dy, saved, out=dy)
    assert out is dy
    np.testing.assert_array_equal(out, dx)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "ReLU cannot be undone"),
        ({"activation": "leaky_relu", "negative_slope": 0.0}, "ReLU cannot be undone"),
        ({"activation": "gelu"}, "nor can a smooth activation"),
        ({"activation": "leaky_relu", "negative_slope": -0.1}, "positive slope"),
        ({"residual": np.ones((9, 3), np.float32)}, "without a residual"),
        ({"weight": np.array([1, 0, 1], np.float32)}, r"weight\[1\] is too small"),
        ({"weight": np.array([1, 1, 1e-32], np.float32)}, r"weight\[2\] is too small"),
        ({"weight": np.array([np.nan, 1, 1], np.float32)}, r"weight\[0\] is too small"),
        ({"bias": np.array([0, 2e3, 0], np.float32)}, r"too small against bias\[1\]"),
    ],
)
def test_what_cannot_be_undone_is_refused_before_x_is_touched(
    change: dict[str, Any], message: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((9, 3)).astype(np.float32)
    before = x.copy()
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    call = {"weight": None, "bias": None, "running_mean": mean, "running_var": var} | change
    with pytest.raises(ValueError, match=message):
        F.batch_norm(x, **call, training=True, out=x)
    np.testing.assert_array_equal(x, before)
    assert not mean.any()
    assert (var == 1).all()


def test_bfloat16_is_refused(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 3)).astype(ml_dtypes.bfloat16)
    before = x.copy()
    with pytest.raises(ValueError, match="bfloat16"):
        F.batch_norm(x, None, None, training=True, out=x)
    np.testing.assert_array_equal(x, before)
