"""max_pool2d, avg_pool2d, global_avg_pool2d: random windows and layouts, NaN, ties, refusals."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, TOLERANCE, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A call of one of the poolings whose every window touches the input."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    op = draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    dilation = (1, 1)
    if op == "max_pool2d":
        options["dilation"] = dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    else:
        options["count_include_pad"] = draw(st.booleans())
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    n, c = draw(st.integers(0, 3)), draw(st.sampled_from([1, 3, 8, 15, 16, 17, 40]))
    shape = (n, *(r + draw(st.integers(0, 9)) for r in reach), c)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ties = draw(st.booleans())
    values = rng.integers(-2, 3, shape) if ties else rng.standard_normal(shape)
    return {
        "op": op,
        "x": LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](values.astype(dtype)),
        "options": options,
        "layout": draw(st.sampled_from(list(LAYOUTS))),
        "rng": rng,
    }


@settings(max_examples=200)
@given(calls())
def test_random_calls_equal_the_reference(example: dict[str, Any]) -> None:
    op, x, options = example["op"], example["x"], example["options"]
    y, saved = getattr(F, op)(x, **options)
    y64, saved64 = getattr(reference, op)(x, **options)
    assert y.dtype == x.dtype
    assert error(y, y64) < TOLERANCE[x.dtype]
    dy = LAYOUTS[example["layout"]](example["rng"].standard_normal(y.shape).astype(x.dtype))
    dx = getattr(F, f"{op}_backward")(dy, saved)
    dx64 = getattr(reference, f"{op}_backward")(dy, saved64)
    assert dx.dtype == x.dtype
    assert error(dx, dx64) < TOLERANCE[x.dtype]


@settings(max_examples=50)
@given(
    st.tuples(
        st.integers(0, 4), st.integers(1, 30), st.integers(1, 9), st.sampled_from([1, 7, 16, 33])
    ),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(list(LAYOUTS)),
)
def test_global_average(shape: tuple[int, ...], dtype: type, layout: str) -> None:
    rng = np.random.default_rng(shape)
    x = LAYOUTS[layout]((rng.standard_normal(shape) + 1).astype(dtype))
    y, saved = F.global_avg_pool2d(x)
    y64, saved64 = reference.global_avg_pool2d(x)
    assert error(y, y64) < TOLERANCE[x.dtype]
    dy = LAYOUTS[layout](rng.standard_normal(y.shape).astype(dtype))
    dx = F.global_avg_pool2d_backward(dy, saved)
    assert error(dx, reference.global_avg_pool2d_backward(dy, saved64)) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("c", [1, 8, 19])
@pytest.mark.parametrize("place", [(0, 0), (1, 0), (2, 2)])
def test_nan_is_the_maximum_and_takes_the_gradient(c: int, place: tuple[int, int]) -> None:
    x = np.full((1, 3, 3, c), np.inf, np.float32)
    x[0, *place, c // 2] = np.nan
    y, saved = F.max_pool2d(x, 3)
    assert np.isnan(y[0, 0, 0, c // 2])
    assert (np.delete(y, c // 2) == np.inf).all()
    dx = F.max_pool2d_backward(np.ones_like(y), saved)
    expected = np.zeros_like(x)
    expected[0, 0, 0] = 1
    expected[0, :, :, c // 2] = 0
    expected[0, *place, c // 2] = 1
    np.testing.assert_array_equal(dx, expected)


def test_windows_of_minus_infinity_hand_the_gradient_to_the_input() -> None:
    x = np.full((1, 2, 2, 9), -np.inf, np.float32)
    y, saved = F.max_pool2d(x, 2, padding=1)
    assert (y == -np.inf).all()
    np.testing.assert_array_equal(F.max_pool2d_backward(np.ones_like(y), saved), np.ones_like(x))


MAX = {
    "plain": (2, {}),
    "3/2/1": (3, {"stride": 2, "padding": 1}),
    "ceil": ((3, 2), {"stride": (2, 3), "padding": (1, 0), "ceil_mode": True}),
    "dilation": (2, {"stride": 1, "dilation": 2}),
}
AVG = {
    "plain": (2, {}),
    "padded": (3, {"stride": 2, "padding": 1}),
    "without padding": (3, {"stride": 2, "padding": 1, "count_include_pad": False}),
    "ceil": ((3, 2), {"stride": (2, 3), "padding": (1, 1), "ceil_mode": True}),
}


@pytest.mark.parametrize(
    ("op", "form"), [("max_pool2d", f) for f in MAX] + [("avg_pool2d", f) for f in AVG]
)
def test_equals_torch(op: str, form: str, torch: ModuleType, rng: np.random.Generator) -> None:
    kernel, options = (MAX if op == "max_pool2d" else AVG)[form]
    x = rng.standard_normal((2, 9, 11, 5)).astype(np.float32)
    leaf = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
    y_torch = getattr(torch.nn.functional, op)(leaf, kernel, **options)
    y, saved = getattr(F, op)(x, kernel, **options)
    assert error(np.moveaxis(y, -1, 1), y_torch.detach().numpy()) < 1e-6
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y_torch.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    dx = getattr(F, f"{op}_backward")(dy, saved)
    assert error(np.moveaxis(dx, -1, 1), leaf.grad.numpy()) < 1e-6


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("shape", "kernel", "options", "message"),
    [
        ((4, 4, 3), 2, {}, "x"),
        ((1, 4, 4, 3), 2, {"padding": 2}, "pad should be at most half"),
        ((1, 4, 4, 3), 2, {"padding": -1}, "padding"),
        ((1, 4, 4, 3), 0, {}, "kernel"),
        ((1, 4, 4, 3), 2, {"stride": 0}, "stride"),
        ((1, 2, 4, 3), 3, {}, "small"),
    ],
)
def test_refused(op: str, shape: Any, kernel: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(F, op)(np.ones(shape), kernel, **options)


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d", "global_avg_pool2d"])
def test_wrong_dy_is_refused(op: str) -> None:
    y, saved = getattr(F, op)(np.ones((1, 4, 4, 3)), *((2,) if op != "global_avg_pool2d" else ()))
    backward = getattr(F, f"{op}_backward")
    with pytest.raises(ValueError, match="dy"):
        backward(np.ones((*y.shape[:-1], 4)), saved)
    with pytest.raises(TypeError, match="dy"):
        backward(y.astype(np.float32), saved)


def test_global_average_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="x"):
        F.global_avg_pool2d(np.ones((2, 3)))
