"""conv2d: random kernels, strides, paddings, dilations, groups and layouts; what it refuses."""

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
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    channels = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33])
    c, o = groups * draw(channels), groups * draw(channels)
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    options: dict[str, Any] = {"dilation": dilation, "groups": groups}
    same = draw(st.booleans())
    if same:
        options["padding"] = "same"
        least = [1, 1]
    else:
        options["padding"] = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        options["stride"] = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        least = [max(r - 2 * p, 1) for r, p in zip(reach, options["padding"], strict=True)]
    size = [low + draw(st.integers(0, 9)) for low in least]
    n = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, storage, bias = (
        LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](rng.standard_normal(shape).astype(dtype))
        for shape in ((n, *size, c), (*kernel, c // groups, o), (o,))
    )
    weight = storage.transpose(3, 2, 0, 1)  # the storage of nn, or PyTorch's own
    if draw(st.booleans()):
        weight = np.ascontiguousarray(weight)
    return {
        "args": (x, weight, bias if draw(st.booleans()) else None),
        "options": options,
        "layout": draw(st.sampled_from(list(LAYOUTS))),
        "rng": rng,
    }


@settings(max_examples=200)
@given(calls())
def test_random_calls_equal_the_reference(example: dict[str, Any]) -> None:
    args, options = example["args"], example["options"]
    y, saved = F.conv2d(*args, **options)
    y64, saved64 = reference.conv2d(*args, **options)
    terms, saved_terms = reference.conv2d(*(a if a is None else np.abs(a) for a in args), **options)
    dtype = args[0].dtype
    assert y.dtype == dtype
    assert error(y, y64, terms) < TOLERANCE[dtype]
    dy = LAYOUTS[example["layout"]](example["rng"].standard_normal(y.shape).astype(dtype))
    for gradient, gradient64, terms in zip(
        F.conv2d_backward(dy, saved),
        reference.conv2d_backward(dy, saved64),
        reference.conv2d_backward(np.abs(dy), saved_terms),
        strict=True,
    ):
        assert (gradient is None) == (gradient64 is None)
        if gradient is not None:
            assert error(gradient, gradient64, terms) < TOLERANCE[dtype]


# Shapes of the literature: a first layer, a 3x3, a strided one, a 1x1, a depthwise one, groups.
LAYERS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 32, 32, 3), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((3, 28, 28, 32), (64, 32, 3, 3), {"padding": 1}),
    ((2, 15, 17, 40), (72, 40, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 14, 14, 96), (40, 96, 1, 1), {}),
    ((2, 16, 16, 64), (32, 64, 1, 1), {"stride": 2}),
    ((2, 19, 19, 48), (48, 1, 3, 3), {"padding": 1, "groups": 48}),
    ((2, 17, 19, 40), (40, 4, 3, 3), {"padding": 1, "groups": 10}),
    ((2, 17, 19, 40), (40, 4, 3, 3), {"padding": 1, "groups": 10, "stride": 2}),
    ((3, 9, 14, 33), (33, 3, 5, 3), {"padding": 2, "groups": 11, "dilation": 2}),
    ((3, 9, 14, 34), (34, 2, 3, 3), {"groups": 17, "stride": (3, 1)}),
    ((2, 14, 14, 48), (48, 8, 3, 3), {"padding": 1, "groups": 6}),
]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
def test_groups_do_not_see_each_other(width: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 9, 4 * width)).astype(np.float32)
    dy = x.copy()
    x[0, 3, 3, width : 2 * width] = np.inf
    dy[1, 2, 2, 2 * width : 3 * width] = np.nan
    weight = rng.standard_normal((4 * width, width, 3, 3)).astype(np.float32)
    y, saved = F.conv2d(x, weight, padding=1, groups=4)
    dx, dweight, _ = F.conv2d_backward(dy, saved)
    assert dx is not None
    assert dweight is not None
    assert np.isfinite(np.delete(y, np.s_[width : 2 * width], -1)).all()
    assert np.isfinite(np.delete(dx, np.s_[2 * width : 3 * width], -1)).all()
    assert np.isfinite(np.delete(dweight, np.s_[width : 3 * width], 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), LAYERS)
def test_layers_of_the_literature(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    options: dict[str, Any],
    dtype: type,
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal(x_shape).astype(dtype)
    o, i, kh, kw = w_shape
    storage = rng.standard_normal((kh, kw, i, o)).astype(dtype)
    bias = rng.standard_normal(o).astype(dtype)
    weight = storage.transpose(3, 2, 0, 1)
    y, saved = F.conv2d(x, weight, bias, **options)
    y64, saved64 = reference.conv2d(x, weight, bias, **options)
    assert error(y, y64) < TOLERANCE[y.dtype]
    dy = rng.standard_normal(y.shape).astype(dtype)
    dstorage = np.full_like(storage, np.nan)
    result = F.conv2d_backward(dy, saved, dweight=dstorage.transpose(3, 2, 0, 1))
    for gradient, gradient64 in zip(result, reference.conv2d_backward(dy, saved64), strict=True):
        assert error(gradient, gradient64) < TOLERANCE[y.dtype]
    assert np.shares_memory(result[1], dstorage)


def test_numbers_and_pairs_mean_the_same(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((2, 9, 9, 4)), rng.standard_normal((6, 2, 3, 3))
    short, _ = F.conv2d(x, weight, stride=2, padding=1, dilation=2, groups=2)
    long, _ = F.conv2d(x, weight, stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2)
    np.testing.assert_array_equal(short, long)
    none, _ = F.conv2d(x, weight, padding="valid", groups=2)
    zero, _ = F.conv2d(x, weight, padding=0, groups=2)
    np.testing.assert_array_equal(none, zero)


def test_nan_reaches_only_the_windows_that_see_it() -> None:
    x = np.ones((1, 7, 7, 3), np.float32)
    x[0, 3, 4, 1] = np.nan
    y, _ = F.conv2d(x, np.ones((5, 3, 3, 3), np.float32), padding=1)
    expected = np.zeros((7, 7), bool)
    expected[2:5, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y[0]), np.repeat(expected[..., None], 5, axis=-1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same"},
        {"dilation": 2, "padding": (2, 1)},
        {"groups": 3, "padding": 1, "stride": (1, 2)},
    ],
    ids=str,
)
def test_equals_torch(options: Any, torch: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 8, 6)).astype(np.float32)
    weight = rng.standard_normal((9, 6 // options.get("groups", 1), 3, 2)).astype(np.float32)
    bias = rng.standard_normal(9).astype(np.float32)
    leaves = [
        torch.from_numpy(a.copy()).requires_grad_() for a in (np.moveaxis(x, -1, 1), weight, bias)
    ]
    y_torch = torch.nn.functional.conv2d(*leaves, **options)
    y, saved = F.conv2d(x, weight, bias, **options)
    assert error(np.moveaxis(y, -1, 1), y_torch.detach().numpy()) < TOLERANCE[y.dtype]
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y_torch.backward(torch.from_numpy(np.moveaxis(dy, -1, 1).copy()))
    dx, dweight, dbias = F.conv2d_backward(dy, saved)
    for gradient, leaf in zip((np.moveaxis(dx, -1, 1), dweight, dbias), leaves, strict=True):
        assert error(gradient, leaf.grad.numpy()) < TOLERANCE[y.dtype]


REFUSED: list[tuple[Any, Any, Any, dict[str, Any], str]] = [
    ((4, 5, 3), (2, 3, 3, 3), None, {}, "x"),
    ((1, 5, 5, 3), (2, 3, 3), None, {}, "weight"),
    ((1, 5, 5, 3), (2, 4, 3, 3), None, {}, "channels"),
    ((1, 5, 5, 4), (3, 2, 3, 3), None, {"groups": 2}, "groups"),
    ((1, 5, 5, 0), (3, 0, 3, 3), None, {}, "weight: no side may be 0"),
    ((1, 5, 5, 0), (0, 0, 1, 1), None, {}, "weight: no side may be 0"),
    ((1, 5, 5, 3), (2, 1, 3, 3), None, {"groups": 2}, "groups|channels"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"groups": 0}, "groups"),
    ((1, 5, 5, 3), (2, 3, 3, 3), (3,), {}, "bias"),
    ((1, 2, 2, 3), (2, 3, 3, 3), None, {}, "[Kk]ernel size can't be greater than"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"dilation": 3}, "[Kk]ernel size can't be greater than"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"stride": 0}, "stride"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"dilation": 0}, "dilation"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"padding": -1}, "padding"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"padding": "full"}, "padding"),
    ((1, 5, 5, 3), (2, 3, 3, 3), None, {"padding": "same", "stride": 2}, "padding='same'"),
]


@pytest.mark.parametrize(("x", "weight", "bias", "options", "message"), REFUSED)
def test_refused(x: Any, weight: Any, bias: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.conv2d(np.ones(x), np.ones(weight), None if bias is None else np.ones(bias), **options)


def test_windows_wider_than_any_memory_are_refused() -> None:
    x, weight = np.ones((1, 4, 4, 1), np.float32), np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(MemoryError):
        F.conv2d(x, weight, dilation=2**31 - 1, padding=2**30)


def test_wrong_dy_is_refused() -> None:
    _, saved = F.conv2d(np.ones((1, 5, 5, 3)), np.ones((2, 3, 3, 3)))
    dweight = np.full((2, 3, 3, 3), 7.0)
    with pytest.raises(ValueError, match="dy"):
        F.conv2d_backward(np.ones((1, 5, 5, 2)), saved, dweight=dweight)
    with pytest.raises(TypeError, match="dy"):
        F.conv2d_backward(np.ones((1, 3, 3, 2), np.float32), saved, dweight=dweight)
    assert (dweight == 7).all()
