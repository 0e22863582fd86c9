"""linear: random shapes, the storage that nn shows through a transposed view, what it refuses."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
from checks import LAYOUTS, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

# A sum of n products is off by a few roundings of its largest terms.
TOLERANCE = {np.dtype(np.float32): 3e-6, np.dtype(np.float64): 1e-14}
SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 64, 100, 129, 257]))


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rows = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3) | st.tuples(SIZES))
    n_in, n_out = draw(SIZES), draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, weight, bias, dy = (
        LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](rng.standard_normal(shape).astype(dtype))
        for shape in ((*rows, n_in), (n_in, n_out), (n_out,), (*rows, n_out))
    )
    transposed = draw(st.booleans())  # the storage of nn, or PyTorch's own
    weight = weight.T if transposed else np.ascontiguousarray(weight.T)
    return {"args": (x, weight, bias if draw(st.booleans()) else None), "dy": dy}


@settings(max_examples=150)
@given(calls())
def test_random_calls_equal_the_reference(example: dict[str, Any]) -> None:
    args, dy = example["args"], example["dy"]
    y, saved = F.linear(*args)
    y64, saved64 = reference.linear(*args)
    terms, saved_terms = reference.linear(*(a if a is None else np.abs(a) for a in args))
    tolerance = TOLERANCE[dy.dtype]
    assert y.dtype == dy.dtype
    assert error(y, y64, terms) < tolerance
    for gradient, gradient64, terms in zip(
        F.linear_backward(dy, saved),
        reference.linear_backward(dy, saved64),
        reference.linear_backward(np.abs(dy), saved_terms),
        strict=True,
    ):
        assert (gradient is None) == (gradient64 is None)
        if gradient is not None:
            assert error(gradient, gradient64, terms) < tolerance


@pytest.mark.parametrize(
    "shape",
    [
        (32, 784, 128),
        (300, 300, 300),
        (1100, 37, 130),
        (1, 2000, 3),
        (2000, 1, 5),
        (83, 97, 89),
        (2100, 130, 70),
        (70, 1100, 430),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_one_tile(
    shape: tuple[int, int, int], dtype: type, rng: np.random.Generator
) -> None:
    n, n_in, n_out = shape
    x = rng.standard_normal((n, n_in)).astype(dtype)
    storage = rng.standard_normal((n_in, n_out)).astype(dtype)
    dy = rng.standard_normal((n, n_out)).astype(dtype)
    y, saved = F.linear(x, storage.T, dy[0])
    y64, saved64 = reference.linear(x, storage.T, dy[0])
    assert error(y, y64) < TOLERANCE[dy.dtype]
    dstorage = np.full_like(storage, np.nan)
    result = F.linear_backward(dy, saved, dweight=dstorage.T)
    for gradient, gradient64 in zip(result, reference.linear_backward(dy, saved64), strict=True):
        assert error(gradient, gradient64) < TOLERANCE[dy.dtype]
    assert np.shares_memory(result[1], dstorage)


def test_nan_and_infinity_stay_in_their_row(rng: np.random.Generator) -> None:
    x = rng.standard_normal((19, 23)).astype(np.float32)
    weight = rng.uniform(0.5, 1.0, (17, 23)).astype(np.float32)
    x[3, 5], x[7, 22], x[18, 0] = np.nan, np.inf, -np.inf
    y, _ = F.linear(x, weight)
    assert np.isnan(y[3]).all()
    assert (y[7] == np.inf).all()
    assert (y[18] == -np.inf).all()
    assert np.isfinite(np.delete(y, [3, 7, 18], axis=0)).all()


# Large enough for panels to be packed.
ROWS, N_IN, N_OUT = 100, 128, 96


@pytest.mark.parametrize("layout", ["C", "F"])
def test_nan_and_infinity_stay_in_their_row_of_a_large_product(
    layout: Literal["C", "F"], rng: np.random.Generator
) -> None:
    x = rng.standard_normal((ROWS, N_IN)).astype(np.float32)
    weight = np.asarray(rng.uniform(0.5, 1.0, (N_OUT, N_IN)), np.float32, order=layout)
    x[3, 5], x[7, 22], x[98, 0] = np.nan, np.inf, -np.inf
    y, saved = F.linear(x, weight)
    assert np.isnan(y[3]).all()
    assert (y[7] == np.inf).all()
    assert (y[98] == -np.inf).all()
    assert np.isfinite(np.delete(y, [3, 7, 98], axis=0)).all()
    dx, dweight, _ = F.linear_backward(np.ones_like(y), saved)
    assert np.isfinite(dx).all()
    assert np.isnan(dweight[:, 5]).all()
    assert (dweight[:, 22] == np.inf).all()
    assert (dweight[:, 0] == -np.inf).all()
    assert np.isfinite(np.delete(dweight, [0, 5, 22], axis=1)).all()


@pytest.mark.parametrize(
    ("size_x", "size_weight"),
    [(1e-36, 1e30), (1e-30, 1e-6), (1e30, 1e6), (3e38, 1e-30), (1e-44, 1e38), (1.0, 1.0)],
)
def test_numbers_of_any_size(size_x: float, size_weight: float, rng: np.random.Generator) -> None:
    x = (size_x * rng.uniform(-1, 1, (ROWS, N_IN))).astype(np.float32)
    weight = (size_weight * rng.uniform(-1, 1, (N_OUT, N_IN))).astype(np.float32)
    y, _ = F.linear(x, weight)
    y64, _ = reference.linear(x, weight)
    terms, _ = reference.linear(np.abs(x), np.abs(weight))
    assert error(y, y64, terms) < TOLERANCE[x.dtype]


def test_small_rows_beside_large_ones_keep_the_digits_of_the_large(
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal((ROWS, N_IN)).astype(np.float32)
    x[::2] *= 1e-37  # with parts that are no normal numbers
    weight = rng.standard_normal((N_OUT, N_IN)).astype(np.float32)
    y, _ = F.linear(x, weight)
    y64, _ = reference.linear(x, weight)
    assert np.abs(y[::2] - y64[::2]).max() < 1e-36
    assert error(y[1::2], y64[1::2]) < TOLERANCE[x.dtype]


def test_sums_beyond_the_largest_number_are_infinite() -> None:
    x = np.full((ROWS, N_IN), 1.2345e30, np.float32)
    x[:, 1:] = 0.0
    weight = np.full((N_OUT, N_IN), 1.2345e10, np.float32)
    weight[::2] *= -1
    y, _ = F.linear(x, weight)
    assert (y[:, ::2] == -np.inf).all()
    assert (y[:, 1::2] == np.inf).all()


def test_no_input_features_give_the_bias() -> None:
    y, saved = F.linear(np.ones((3, 0)), np.ones((2, 0)), np.array([1.0, 2.0]))
    assert y.tolist() == [[1.0, 2.0]] * 3
    dx, dweight, dbias = F.linear_backward(np.ones((3, 2)), saved)
    assert dx.shape == (3, 0)
    assert dweight.shape == (2, 0)
    assert dbias.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(dtype: type, torch: ModuleType, rng: np.random.Generator) -> None:
    x, weight, bias, dy = (
        rng.standard_normal(s).astype(dtype) for s in ((33, 57), (21, 57), (21,), (33, 21))
    )
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias)]
    y_torch = torch.nn.functional.linear(*leaves)
    y_torch.backward(torch.from_numpy(dy))
    y, saved = F.linear(x, weight, bias)
    assert error(y, y_torch.detach().numpy()) < TOLERANCE[dy.dtype]
    for gradient, leaf in zip(F.linear_backward(dy, saved), leaves, strict=True):
        assert error(gradient, leaf.grad.numpy()) < TOLERANCE[dy.dtype]


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((4, 5), (3, 6), None, "5.*6|6.*5"),
        ((4, 5), (3, 5, 1), None, "weight"),
        ((4, 5), (5,), None, "weight"),
        ((4, 5), (3, 5), (4,), "bias"),
        ((4, 5), (3, 5), (3, 1), "bias"),
        ((), (3, 5), None, "x"),
    ],
)
def test_refused(x: Any, weight: Any, bias: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.linear(np.ones(x), np.ones(weight), None if bias is None else np.ones(bias))


def test_wrong_dy_is_refused() -> None:
    _, saved = F.linear(np.ones((4, 5)), np.ones((3, 5)))
    dweight = np.full((3, 5), 7.0)
    with pytest.raises(ValueError, match="dy"):
        F.linear_backward(np.ones((4, 4)), saved, dweight=dweight)
    with pytest.raises(TypeError, match="dy"):
        F.linear_backward(np.ones((4, 3), np.float32), saved, dweight=dweight)
    assert (dweight == 7).all()
