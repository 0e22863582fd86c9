"""3x3 convolutions by Winograd, tiles of 2x2 and 4x4: equal to the reference at every border."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, error
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import functional as F
from fastbn import reference

TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-14}
WINOGRAD = "Winograd"


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, ...]:
    """Sizes that are odd and even, padding of every kind, channels beside whole vectors."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    c, o = (draw(st.sampled_from([16, 17, 24, 31, 33, 48])) for _ in range(2))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    height, width = (draw(st.integers(3, 13)) for _ in range(2))
    tiles = ((height + 2 * padding[0] - 1) // 2) * ((width + 2 * padding[1] - 1) // 2)
    # few windows are taken in tiles of 2x2, many in tiles of 4x4 if these do not stand over much
    n = -(-draw(st.sampled_from([32, 160])) // tiles) + draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
    x = layout(rng.standard_normal((n, height, width, c)).astype(dtype))
    weight = layout(rng.standard_normal((3, 3, c, o)).astype(dtype)).transpose(3, 2, 0, 1)
    if draw(st.booleans()):
        weight = np.ascontiguousarray(weight)
    bias = rng.standard_normal(o).astype(dtype) if draw(st.booleans()) else None
    return x, weight, bias, padding, layout, rng


@settings(max_examples=100)
@given(calls())
def test_random_calls_equal_the_reference(call: tuple[Any, ...]) -> None:
    x, weight, bias, padding, layout, rng = call
    assert F.conv2d_algorithm(x.shape, weight.shape, padding=padding) == WINOGRAD
    y, saved = F.conv2d(x, weight, bias, padding=padding)
    y64, saved64 = reference.conv2d(x, weight, bias, padding=padding)
    assert error(y, y64) < TOLERANCE[x.dtype]
    dy = layout(rng.standard_normal(y.shape).astype(x.dtype))
    gradients = F.conv2d_backward(dy, saved)
    for gradient, gradient64 in zip(gradients, reference.conv2d_backward(dy, saved64), strict=True):
        assert (gradient is None) == (gradient64 is None)
        if gradient is not None:
            assert error(gradient, gradient64) < TOLERANCE[x.dtype]


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        ((1, 4, 1024, 16), 16),  # fewer rows of tiles than chunks
        ((1, 1, 2048, 16), 16),
        ((1, 3, 3000, 20), 24),
        ((2, 16, 128, 16), 32),  # chunks
        ((9, 31, 33, 17), 16),
        ((5, 30, 30, 64), 64),
        ((3, 30, 30, 96), 96),  # too many weights for them
        ((6, 112, 112, 16), 16),  # groups of blocks in each chunk
        ((2, 72, 72, 96), 96),  # groups of blocks without chunks
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_weights_are_cut_into_chunks(
    shape: tuple[int, ...], outputs: int, dtype: Any, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((outputs, shape[-1], 3, 3)).astype(dtype)
    other = (1e6 * rng.standard_normal((4, 30, 30, 64))).astype(dtype)
    _, saved = F.conv2d(other, rng.standard_normal((64, 64, 3, 3)).astype(dtype), padding=1)
    F.conv2d_backward(other, saved)  # leaves large numbers in the working memory
    x = rng.standard_normal(shape).astype(dtype)
    y, saved = F.conv2d(x, weight, padding=1)
    dy = rng.standard_normal(y.shape).astype(dtype)
    _, dweight, _ = F.conv2d_backward(dy, saved)
    _, saved64 = reference.conv2d(x, weight, padding=1)
    _, dweight64, _ = reference.conv2d_backward(dy, saved64)
    assert error(dweight, dweight64) < TOLERANCE[x.dtype]


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((16, 15, 15, 64), 64), ((2, 28, 28, 128), 128), ((24, 7, 7, 256), 64), ((24, 7, 7, 512), 32)],
)
def test_errors_do_not_grow_with_the_channels(
    shape: tuple[int, ...], outputs: int, rng: np.random.Generator
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((outputs, shape[-1], 3, 3)).astype(np.float32)
    y, saved = F.conv2d(x, weight, padding=1)
    y64, saved64 = reference.conv2d(x, weight, padding=1)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    results = (y, *F.conv2d_backward(dy, saved)[:2])
    results64 = (y64, *reference.conv2d_backward(dy, saved64)[:2])
    for result, result64 in zip(results, results64, strict=True):
        assert result is not None
        assert result64 is not None
        assert error(result, result64) < 2e-6


@pytest.mark.parametrize(
    ("images", "side", "tile"),
    [
        (64, 31, 4),
        (64, 15, 4),
        (64, 14, 4),
        (64, 7, 4),
        (128, 3, 4),
        (64, 6, 2),  # as many products
        (64, 5, 2),
        (128, 2, 2),  # more of them
        (1, 14, 2),  # too few tiles for the filters
    ],
)
def test_the_number_of_products_decides_the_tile(
    images: int, side: int, tile: int, rng: np.random.Generator
) -> None:
    """Tiles of 2x2 keep small integers exact, those of 4x4 only to 2e-6 of the largest."""
    x = rng.integers(-4, 5, (images, side, side, 16)).astype(np.float32)
    weight = rng.integers(-4, 5, (16, 16, 3, 3)).astype(np.float32)
    y, saved = F.conv2d(x, weight, padding=1)
    y64, saved64 = reference.conv2d(x, weight, padding=1)
    gradients, gradients64 = F.conv2d_backward(x, saved), reference.conv2d_backward(x, saved64)
    for result, result64 in zip((y, *gradients[:2]), (y64, *gradients64[:2]), strict=True):
        assert result is not None
        assert result64 is not None
        assert error(result, result64) < 2e-6
        assert np.array_equal(result, result64) == (tile == 2)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("side", [6, 14])
def test_an_offset_costs_no_digits_of_the_largest(
    offset: float, side: int, rng: np.random.Generator
) -> None:
    x = (rng.standard_normal((8, side, side, 64)) + offset).astype(np.float32)
    weight = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    y64, _ = reference.conv2d(x, weight, padding=1)
    assert error(F.conv2d(x, weight, padding=1)[0], y64) < 2e-6


@pytest.mark.parametrize("images", [2, 30])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_reaches_only_the_windows_that_see_it(value: float, images: int) -> None:
    x = np.zeros((images, 9, 9, 16), np.float32)
    x[0, 3, 4, 1] = value
    weight = np.ones((16, 16, 3, 3), np.float32)
    assert F.conv2d_algorithm(x.shape, weight.shape, padding=1) == WINOGRAD
    seen = np.zeros(x.shape, bool)
    seen[0, 2:5, 3:6] = True
    y, saved = F.conv2d(x, weight, padding=1, moments=True)
    np.testing.assert_array_equal(y != 0, seen)
    np.testing.assert_array_equal(y[seen], np.float32(value))
    dx, dweight, _ = F.conv2d_backward(x, saved)
    np.testing.assert_array_equal(dx != 0, seen)
    # x and dy differ from zero in one place each, which only the middle tap brings together
    hit = np.zeros(weight.shape, bool)
    hit[1, 1, 1, 1] = True
    if np.isfinite(value):
        np.testing.assert_array_equal(dweight, np.where(hit, np.float32(np.inf), 0))
    else:  # 0 * value is NaN wherever x or dy has the value
        assert np.isnan(dweight[1, 0]).all()
        assert np.isfinite(dweight[0, 0]).all()


@pytest.mark.parametrize(
    "shape",
    [(9, 15, 14, 40), (9, 6, 10, 40), (1, 15, 14, 40), (70, 7, 7, 128), (6, 112, 112, 16)],
)
def test_the_same_bits_for_every_number_of_threads(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((48, shape[-1], 3, 3)).astype(np.float32)
    dy = rng.standard_normal((*shape[:-1], 48)).astype(np.float32)
    before = fastbn.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 4):
            fastbn.set_num_threads(threads)
            y, saved = F.conv2d(x, weight, padding=1, moments=True)
            results.append((y, *saved.moments[1:], *F.conv2d_backward(dy, saved)[:2]))
    finally:
        fastbn.set_num_threads(before)
    for more in results[1:]:
        for a, b in zip(results[0], more, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("algorithm", "x_shape", "w_shape", "options"),
    [
        (WINOGRAD, (64, 28, 28, 32), (64, 32, 3, 3), {"padding": "same"}),
        ("direct", (64, 28, 28, 3), (64, 3, 3, 3), {"padding": 1}),
        ("direct", (1, 4, 4, 32), (64, 32, 3, 3), {"padding": 1}),
        ("direct", (64, 28, 28, 32), (64, 32, 3, 3), {"stride": 2}),
        ("direct", (64, 28, 28, 32), (64, 32, 3, 3), {"dilation": 2}),
        ("direct", (64, 28, 28, 32), (64, 32, 3, 3), {"padding": 3}),
        ("direct", (64, 28, 28, 32), (64, 32, 5, 5), {}),
        ("depthwise", (64, 28, 28, 32), (32, 1, 3, 3), {"groups": 32}),
        ("narrow groups", (64, 28, 28, 32), (32, 4, 3, 3), {"groups": 8}),
    ],
)
def test_the_shape_decides(algorithm: str, x_shape: Any, w_shape: Any, options: Any) -> None:
    assert F.conv2d_algorithm(x_shape, w_shape, **options) == algorithm
