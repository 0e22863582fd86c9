"""dropout: the reference's mask, its statistics, its scale and its repeatability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS

from fastbn import functional as F
from fastbn import reference as R

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale(p: float, dtype: Any) -> None:
    x = np.ones((400, 500), dtype)
    y, saved = F.dropout(x, p, rng=np.random.default_rng(0))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=4 * np.finfo(dtype).eps)
    sigma = np.sqrt(p * (1 - p) / x.size)
    assert abs(kept.mean() - (1 - p)) < 5 * sigma
    for axis in (0, 1):  # nor do rows or columns have a share of their own
        spread = kept.mean(axis=axis).std()
        assert 0.8 < spread / np.sqrt(p * (1 - p) / x.shape[axis]) < 1.2
    neighbours = np.corrcoef(kept.ravel()[:-1], kept.ravel()[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(x.size)
    dy = np.full_like(x, 3)
    np.testing.assert_array_equal(F.dropout_backward(dy, saved), 3 * y)


@pytest.mark.parametrize("shape", [(1,), (15, 17), (16385,), (3, 33, 512), (0, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_is_the_references(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> None:
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    y, saved = F.dropout(x, 0.3, rng=np.random.default_rng(5))
    expected, expected_saved = R.dropout(x, 0.3, rng=np.random.default_rng(5))
    np.testing.assert_allclose(y, expected, rtol=4 * np.finfo(dtype).eps)
    dx = F.dropout_backward(dy, saved, out=dy.copy())
    expected_dx = R.dropout_backward(dy, expected_saved)
    np.testing.assert_allclose(dx, expected_dx, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_generator_decides(layout: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((31, 17)).astype(np.float32)
    generator = np.random.default_rng(7)
    y, _ = F.dropout(x, 0.4, rng=np.random.default_rng(7))
    again, _ = F.dropout(LAYOUTS[layout](x), 0.4, rng=generator)
    np.testing.assert_array_equal(again, y)
    other, _ = F.dropout(x, 0.4, rng=generator)  # the generator has moved on
    assert (other != y).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges(dtype: Any, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 9, 5)).astype(dtype)
    for options in ({"p": 0.0}, {"p": 0.7, "training": False}):
        y, saved = F.dropout(x, **options)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(F.dropout_backward(dy, saved), dy)
    y, saved = F.dropout(x, 1.0)
    assert not y.any()
    assert not F.dropout_backward(dy, saved).any()


def test_inference_leaves_the_generator_alone() -> None:
    generator = np.random.default_rng(3)
    F.dropout(np.ones((4, 4)), 0.5, training=False, rng=generator)
    assert generator.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_refused(p: float) -> None:
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        F.dropout(np.ones((2, 2)), p)
