"""conv_transpose2d: random calls, the adjoint of conv2d, PyTorch; what it refuses."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

TOLERANCE = {np.dtype(np.float32): 3e-6, np.dtype(np.float64): 1e-14}


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 8]))
    channels = st.sampled_from([1, 2, 3, 8, 17, 33])
    c, o = groups * draw(channels), groups * draw(channels)
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    padding = []
    for n, s, d, k, m in zip(size, stride, dilation, kernel, more, strict=True):
        whole = (n - 1) * s + d * (k - 1) + m + 1
        padding.append(draw(st.integers(0, min(3, (whole - 1) // 2))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, storage, bias = (
        LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](rng.standard_normal(shape).astype(dtype))
        for shape in ((draw(st.integers(0, 3)), *size, c), (*kernel, o // groups, c), (o,))
    )
    weight = storage.transpose(3, 2, 0, 1)
    if draw(st.booleans()):
        weight = np.ascontiguousarray(weight)
    return {
        "args": (x, weight, bias if draw(st.booleans()) else None),
        "options": {
            "stride": stride, "padding": tuple(padding), "output_padding": more,
            "groups": groups, "dilation": dilation,
        },
        "rng": rng,
    }  # fmt: skip


@settings(max_examples=200)
@given(calls())
def test_random_calls_equal_the_reference(example: dict[str, Any]) -> None:
    args, options = example["args"], example["options"]
    y, saved = F.conv_transpose2d(*args, **options)
    y64, saved64 = reference.conv_transpose2d(*args, **options)
    sizes = (a if a is None else np.abs(a) for a in args)
    terms, saved_terms = reference.conv_transpose2d(*sizes, **options)
    dtype = args[0].dtype
    assert y.dtype == dtype
    assert error(y, y64, terms) < TOLERANCE[dtype]
    dy = example["rng"].standard_normal(y.shape).astype(dtype)
    for gradient, gradient64, terms in zip(
        F.conv_transpose2d_backward(dy, saved),
        reference.conv_transpose2d_backward(dy, saved64),
        reference.conv_transpose2d_backward(np.abs(dy), saved_terms),
        strict=True,
    ):
        assert (gradient is None) == (gradient64 is None)
        if gradient is not None:
            assert error(gradient, gradient64, terms) < TOLERANCE[dtype]


def test_is_the_transpose_of_conv2d(rng: np.random.Generator) -> None:
    image, weight = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((4, 3, 3, 2))
    options: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": (2, 1)}
    seen, saved = F.conv2d(image, weight, **options)
    other = rng.standard_normal(seen.shape)
    spread, _ = F.conv_transpose2d(other, weight, output_padding=(0, 0), **options)
    dx, _, _ = F.conv2d_backward(other, saved)
    assert spread.shape == dx.shape == image.shape
    np.testing.assert_array_equal(spread, dx)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (3, 1), "groups": 3},
        {"dilation": 2, "padding": (2, 1)},
    ],
    ids=str,
)
def test_equals_torch(options: Any, torch: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 4, 6)).astype(np.float32)
    weight = rng.standard_normal((6, 3, 3, 2)).astype(np.float32)
    bias = rng.standard_normal(3 * options.get("groups", 1)).astype(np.float32)
    leaves = [
        torch.from_numpy(a.copy()).requires_grad_() for a in (np.moveaxis(x, -1, 1), weight, bias)
    ]
    y_torch = torch.nn.functional.conv_transpose2d(*leaves, **options)
    y, saved = F.conv_transpose2d(x, weight, bias, **options)
    assert error(np.moveaxis(y, -1, 1), y_torch.detach().numpy()) < TOLERANCE[y.dtype]
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y_torch.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    dx, dweight, dbias = F.conv_transpose2d_backward(dy, saved)
    for gradient, leaf in zip((np.moveaxis(dx, -1, 1), dweight, dbias), leaves, strict=True):
        assert error(gradient, leaf.grad.numpy()) < TOLERANCE[y.dtype]


REFUSED: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    ((4, 5, 3), (3, 2, 3, 3), None, {}, "x|4D"),
    ((1, 5, 5, 3), (3, 3, 3), None, {}, "weight"),
    ((1, 5, 5, 4), (3, 2, 3, 3), None, {}, "channels"),
    ((1, 5, 5, 3), (3, 2, 3, 3), None, {"groups": 2}, "groups"),
    ((1, 5, 5, 3), (3, 2, 3, 3), None, {"groups": 0}, "groups"),
    ((1, 5, 5, 3), (3, 2, 3, 3), (3,), {}, "bias"),
    ((1, 1, 1, 3), (3, 2, 2, 2), None, {"padding": 1}, "Output size is too small"),
    ((1, 0, 5, 3), (3, 2, 2, 2), None, {}, "at least one pixel"),
    ((1, 5, 5, 3), (3, 2, 3, 3), None, {"output_padding": 1}, "output padding must be smaller"),
    ((1, 5, 5, 3), (3, 2, 3, 3), None, {"stride": 0}, "stride"),
    ((1, 5, 5, 3), (3, 2, 3, 3), None, {"padding": -1}, "padding"),
]


@pytest.mark.parametrize(("x", "weight", "bias", "options", "message"), REFUSED)
def test_refused(x: Any, weight: Any, bias: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.conv_transpose2d(
            np.ones(x), np.ones(weight), None if bias is None else np.ones(bias), **options
        )


def test_wrong_dy_is_refused() -> None:
    _, saved = F.conv_transpose2d(np.ones((1, 5, 5, 3)), np.ones((3, 2, 3, 3)))
    dweight = np.full((3, 2, 3, 3), 7.0)
    with pytest.raises(ValueError, match="dy"):
        F.conv_transpose2d_backward(np.ones((1, 5, 5, 2)), saved, dweight=dweight)
    with pytest.raises(TypeError, match="dy"):
        F.conv_transpose2d_backward(np.ones((1, 7, 7, 2), np.float32), saved, dweight=dweight)
    assert (dweight == 7).all()
