"""ELU to Mish and PReLU: over the whole range, at its ends, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

OPS: list[tuple[str, dict[str, Any]]] = [
    ("elu", {}),
    ("elu", {"alpha": 2.0}),
    ("selu", {}),
    ("silu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("relu6", {}),
    ("softplus", {}),
    ("softplus", {"beta": 0.5}),
    ("mish", {}),
]
EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("op", "options"), OPS, ids=str)
def test_every_value_is_right(op: str, options: dict[str, Any], dtype: type) -> None:
    """Within some units in the last place of the larger one of x and 1, for every x by itself."""
    x = np.concatenate([np.linspace(-60, 60, 20_001), np.geomspace(1e-30, 1e3, 301)])
    x = np.concatenate([x, -x]).astype(dtype)
    y, saved = getattr(F, op)(x, **options)
    y64, saved64 = getattr(reference, op)(x, **options)
    assert (np.abs(y - y64) <= 6 * EPS[dtype] * np.maximum(np.abs(x), 1)).all()
    dx = getattr(F, f"{op}_backward")(np.ones_like(x), saved)
    dx64 = getattr(reference, f"{op}_backward")(np.ones(x.shape), saved64)
    assert (np.abs(dx - dx64) <= 12 * EPS[dtype] * np.maximum(np.abs(x), 1)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("op", "options"), OPS, ids=str)
def test_the_ends_and_nan(op: str, options: dict[str, Any], dtype: type) -> None:
    largest = float(np.finfo(dtype).max) / 4
    x = np.array([-largest, -1e15, -200.0, 0.0, 200.0, 1e15, largest, np.nan] * 5, dtype)
    y, saved = getattr(F, op)(x, **options)
    dx = getattr(F, f"{op}_backward")(np.ones_like(x), saved)
    for values in (y, dx):
        np.testing.assert_array_equal(np.isnan(values), np.isnan(x))
    with np.errstate(over="ignore", invalid="ignore"):
        y64 = getattr(reference, op)(x, **options)[0]
    shown = np.isfinite(y64)
    np.testing.assert_allclose(y[shown], y64[shown], rtol=1e-6, atol=1e-30)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 70),
    channels=st.sampled_from([1, 2, 3, 15, 16, 17, 33, 100]),
    dtype=st.sampled_from([np.float32, np.float64]),
    layout=st.sampled_from(list(LAYOUTS)),
    one=st.booleans(),
)
def test_prelu(rows: int, channels: int, dtype: type, layout: str, one: bool) -> None:
    rng = np.random.default_rng((rows, channels))
    x = LAYOUTS[layout](rng.standard_normal((rows, channels)).astype(dtype))
    weight = LAYOUTS[layout](rng.standard_normal(1 if one else channels).astype(dtype))
    dy = rng.standard_normal((rows, channels)).astype(dtype)
    y, saved = F.prelu(x, weight)
    y64, saved64 = reference.prelu(x, weight)
    assert error(y, y64) < 8 * EPS[dtype]
    dx, dweight = F.prelu_backward(dy, saved)
    dx64, dweight64 = reference.prelu_backward(dy, saved64)
    assert error(dx, dx64) < 8 * EPS[dtype]
    terms = np.abs(dy * x).sum()
    assert dweight.dtype == dtype
    assert error(dweight, dweight64, terms) < 8 * EPS[dtype]


def test_prelu_goes_where_it_is_told() -> None:
    x, weight = np.array([[-1.0, 2.0]]), np.array([0.5, 0.25])
    out, dx, dw = np.empty((1, 2)), np.empty((1, 2)), np.empty(2)
    y, saved = F.prelu(x, weight, out=out)
    weight[...] = 9.0  # backward has the slopes of forward
    result = F.prelu_backward(np.ones((1, 2)), saved, out=dx, dweight=dw)
    assert y is out
    assert result[0] is dx
    assert result[1] is dw
    np.testing.assert_array_equal(dx, [[0.5, 1.0]])
    np.testing.assert_array_equal(dw, [-1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.gelu(x, "erf"), "approximate should be 'none' or 'tanh', but got 'erf'"),  # type: ignore[arg-type]
        (lambda x: F.softplus(x, 0.0), "beta should be finite and > 0, but got 0"),
        (lambda x: F.silu(x, out=x), "out must not overlap x: backward needs x"),
        (lambda x: F.prelu(x, np.ones(4)), "weight should contain 3 elements"),
        (lambda x: F.prelu(x, np.ones(3, np.float32)), "weight: expected float64, got float32"),
        (lambda x: F.prelu(x, np.ones(3), out=x), "out must not overlap x"),
        (lambda x: F.prelu(x, None), "weight: expected a numpy.ndarray"),
        (lambda x: F.silu_backward(x, F.mish(x)[1]), "saved is not what silu returned"),
        (lambda x: F.gelu_backward(x, F.silu(x)[1]), "saved is not what gelu returned"),
        (lambda x: F.gelu_backward(x, None), "saved is not what gelu returned"),  # type: ignore[arg-type]
        (lambda x: F.prelu_backward(x, F.silu(x)[1]), "PreluSaved"),  # type: ignore[arg-type]
        (lambda x: F.prelu_backward(x, type(F.prelu(x, np.ones(3))[1])()), "not what prelu"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(np.ones((2, 3)))
