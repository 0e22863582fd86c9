"""relu, leaky_relu, sigmoid, tanh, softmax: accuracy over the whole range, NaN, infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, TOLERANCE, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

NAMES = ["relu", "leaky_relu", "sigmoid", "tanh", "softmax"]
DTYPES = [np.float32, np.float64]


@settings(max_examples=150)
@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 7, 15, 16, 17, 33, 65]), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_random_calls_equal_the_reference(
    name: str, shape: list[int], dtype: type, layout: str, scale: float
) -> None:
    if name == "softmax" and shape[-1] == 0:
        shape[-1] = 1
    rng = np.random.default_rng(shape)
    x = LAYOUTS[layout]((scale * rng.standard_normal(shape)).astype(dtype))
    dy = LAYOUTS[layout](rng.standard_normal(shape).astype(dtype))
    y, saved = getattr(F, name)(x)
    y64, saved64 = getattr(reference, name)(x)
    assert y.dtype == dtype
    assert error(y, y64) < TOLERANCE[x.dtype]
    dx = getattr(F, f"{name}_backward")(dy, saved)
    dx64 = getattr(reference, f"{name}_backward")(dy, saved64)
    # y is rounded, and 1 - y and 1 - y² with it: the error is of the size of dy's rounding
    scale_of_dx = max(np.abs(dx64).max(initial=0), np.abs(dy).max(initial=0))
    assert dx.shape == dy.shape
    assert np.abs(dx - dx64).max(initial=0) <= TOLERANCE[x.dtype] * scale_of_dx


def whole_range(dtype: type) -> Any:
    """Numbers of every size of both signs, subnormal ones too."""
    info = np.finfo(dtype)
    powers = np.geomspace(float(info.smallest_normal), float(info.max) / 2, 3001)
    few = np.linspace(-110.0, 110.0, 4001)
    tiny = np.array([0.0, float(info.smallest_subnormal), float(info.smallest_normal) / 3])
    return np.concatenate([powers, -powers, few, tiny, -tiny]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_every_value_is_right_to_a_few_ulps(name: str, dtype: type) -> None:
    x = whole_range(dtype)
    y, _ = getattr(F, name)(x)
    y64 = getattr(reference, name)(x)[0]
    # Relative to every single value, not to the largest; subnormal results may be flushed.
    away = np.abs(y - y64) > 8 * np.finfo(dtype).eps * np.abs(y64) + np.finfo(dtype).smallest_normal
    assert not away.any(), x[away][:10]
    assert (np.abs(y) <= 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_every_value_is_exact(name: str, dtype: type) -> None:
    x = whole_range(dtype)
    y, saved = getattr(F, name)(x)
    slope = dtype(0.0 if name == "relu" else 0.01)
    np.testing.assert_array_equal(y, np.where(x > 0, x, slope * x))
    dx = getattr(F, f"{name}_backward")(np.ones_like(x), saved)
    np.testing.assert_array_equal(dx, np.where(x > 0, dtype(1), slope))


SPECIAL: dict[str, list[float]] = {
    #             nan     inf    -inf    -0.0
    "relu": [np.nan, np.inf, 0.0, 0.0],
    "leaky_relu": [np.nan, np.inf, -np.inf, 0.0],
    "sigmoid": [np.nan, 1.0, 0.0, 0.5],
    "tanh": [np.nan, 1.0, -1.0, 0.0],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [4, 8, 60])  # tails and full vectors
@pytest.mark.parametrize("name", list(SPECIAL))
def test_nan_and_infinities(name: str, length: int, dtype: type) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -0.0], dtype), length)
    y, saved = getattr(F, name)(x)
    np.testing.assert_array_equal(y, np.resize(SPECIAL[name], length))
    dx = getattr(F, f"{name}_backward")(np.ones_like(x), saved)
    dx64 = getattr(reference, f"{name}_backward")(np.ones_like(x), getattr(reference, name)(x)[1])
    np.testing.assert_array_equal(dx, dx64.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, -0.5])
def test_slopes(slope: float, dtype: type, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 37)).astype(dtype)
    y, saved = F.leaky_relu(x, slope)
    y64, saved64 = reference.leaky_relu(x, slope)
    assert error(y, y64) < TOLERANCE[x.dtype]
    dx = F.leaky_relu_backward(dy, saved)
    assert error(dx, reference.leaky_relu_backward(dy, saved64)) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_huge_and_masked_values(dtype: type) -> None:
    x = np.array([[1e4, 0.0, -1e4], [-np.inf, 2.0, 2.0], [3e38, 3e38, -3e38]], dtype)
    y, _ = F.softmax(x)
    np.testing.assert_array_equal(y, np.array([[1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0]], dtype))
    assert np.isnan(F.softmax(np.array([[0.0, np.nan, 1.0]], dtype))[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 1000, 4099])
def test_softmax_rows_sum_to_one(classes: int, dtype: type, rng: np.random.Generator) -> None:
    x = (5 * rng.standard_normal((3, classes))).astype(dtype)
    y, _ = F.softmax(x)
    np.testing.assert_allclose(y.sum(axis=-1, dtype=np.float64), 1.0, rtol=TOLERANCE[x.dtype])
    assert error(y, reference.softmax(x)[0]) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("name", NAMES)
def test_in_place(name: str, rng: np.random.Generator) -> None:
    """Where out may be x, or dx may be dy, the bits are those of separate arrays."""
    x, dy = rng.standard_normal((2, 5, 33)).astype(np.float32)
    y, saved = getattr(F, name)(x)
    dx = getattr(F, f"{name}_backward")(dy, saved)
    same = x.copy()
    out, _ = getattr(F, name)(same, out=same)
    assert out is same
    np.testing.assert_array_equal(same, y)
    same = dy.copy()
    assert getattr(F, f"{name}_backward")(same, saved, out=same) is same
    np.testing.assert_array_equal(same, dx)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_dy_is_refused(name: str) -> None:
    _, saved = getattr(F, name)(np.ones((4, 3)))
    backward = getattr(F, f"{name}_backward")
    with pytest.raises(ValueError, match="dy"):
        backward(np.ones((4, 2)), saved)
    with pytest.raises(TypeError, match="dy"):
        backward(np.ones((4, 3), np.float32), saved)


def test_flatten_refers_to_x_where_it_can(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4, 5, 2)).astype(np.float32)
    y, saved = F.flatten(x)
    assert np.shares_memory(y, x)
    np.testing.assert_array_equal(y, x.reshape(3, 40))
    dx = F.flatten_backward(y, saved)
    assert dx.shape == x.shape
    with pytest.raises(ValueError, match="dy"):
        F.flatten_backward(y[:, 1:], saved)
