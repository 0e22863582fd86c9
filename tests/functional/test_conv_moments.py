"""Moments that a convolution takes of its output, and a batch_norm that is given them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import error

from fastbn import functional as F
from fastbn import reference

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((4, 14, 14, 32), (64, 32, 3, 3), {"padding": 1}),  # Winograd
    ((5, 15, 13, 24), (40, 24, 3, 3), {"padding": (0, 2)}),
    ((3, 9, 9, 3), (5, 3, 3, 3), {"stride": 2}),
    ((3, 9, 8, 8), (2, 8, 1, 1), {}),  # so few columns that sums run along rows
    ((4, 9, 9, 16), (16, 1, 3, 3), {"groups": 16}),  # depthwise
    ((4, 9, 9, 16), (32, 4, 3, 3), {"groups": 4}),
    ((2, 5, 5, 20), (1030, 20, 3, 3), {"padding": 1}),
    ((1, 1, 1, 4), (3, 4, 1, 1), {}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x_shape", "w_shape", "options"), SHAPES)
def test_are_those_of_the_output(
    x_shape: Any, w_shape: Any, options: Any, dtype: Any, rng: np.random.Generator
) -> None:
    x = (rng.standard_normal(x_shape) + 30).astype(dtype)
    weight, bias = (rng.standard_normal(s).astype(dtype) for s in (w_shape, w_shape[:1]))
    y, saved = F.conv2d(x, weight, bias, **options, moments=True)
    plain, without = F.conv2d(x, weight, bias, **options)
    np.testing.assert_array_equal(y, plain)
    assert without.moments is None
    (count, mean, m2), _ = reference.batch_moments(y)
    assert saved.moments[0] == count
    assert error(saved.moments[1], mean) < 1e-7
    assert error(saved.moments[2], m2) < 1e-5


def test_of_nothing_are_refused() -> None:
    x, weight = np.ones((0, 5, 5, 2)), np.ones((3, 2, 3, 3))
    with pytest.raises(ValueError, match="moments need a value per channel"):
        F.conv2d(x, weight, moments=True)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (6, 5, 5, 24)), (1, (6, 24, 5, 5))])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_batch_norm_with_moments_is_batch_norm(
    axis: int, shape: tuple[int, ...], activation: str | None, rng: np.random.Generator
) -> None:
    x = (rng.standard_normal(shape) + 1e3).astype(np.float32)
    weight, bias = (rng.standard_normal(24).astype(np.float32) for _ in range(2))
    dy = rng.standard_normal(shape).astype(np.float32)
    options: Any = {"training": True, "axis": axis, "activation": activation}
    running = [[np.zeros(24, np.float32), np.ones(24, np.float32)] for _ in range(2)]
    moments, _ = F.batch_moments(x, axis)
    found, saved = F.batch_norm(x, weight, bias, *running[0], **options, moments=moments)
    truth, saved64 = reference.batch_norm(x, weight, bias, *running[1], **options)
    assert error(found, truth) < 2e-6
    for mine, reference_buffer in zip(*running, strict=True):
        assert error(mine, reference_buffer) < 1e-6
    for mine, gradient in zip(
        F.batch_norm_backward(dy, saved),
        reference.batch_norm_backward(dy, saved64),
        strict=True,
    ):
        assert error(mine, gradient) < 1e-5


def test_moments_that_cannot_be_are_refused() -> None:
    x = np.arange(12.0).reshape(4, 3)
    count, mean, m2 = F.batch_moments(x)[0]
    running = [np.zeros(3), np.ones(3)]

    def call(moments: Any, training: bool = True) -> None:
        F.batch_norm(x, None, None, *running, training=training, moments=moments)

    with pytest.raises(ValueError, match="expected those of 4 values per channel, got 5"):
        call((5, mean, m2))
    with pytest.raises(ValueError, match="moments: mean should contain 3 elements"):
        call((count, mean[:2], m2))
    with pytest.raises(TypeError, match="moments: m2: expected float64"):
        call((count, mean, m2.astype(np.float32)))
    for nothing in ((count, None, m2), (count, mean, None)):
        with pytest.raises(TypeError, match=r"moments: m.*: expected a numpy.ndarray"):
            call(nothing)
    for other in (5, (count, mean), [count, mean, m2]):
        with pytest.raises(TypeError, match=r"moments: expected \(count, mean, m2\)"):
            call(other)
    with pytest.raises(ValueError, match="go with training=True"):
        call((count, mean, m2), training=False)
    assert (running[0] == 0).all()
    assert (running[1] == 1).all()
