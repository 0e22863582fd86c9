"""Normalisation of planes and rows that are longer than the blocks whose moments are taken."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from fastbn import functional as F
from fastbn import reference


@pytest.mark.parametrize("side", [31, 33, 65, 100])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm(side: int, groups: int, rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 2, 8, side, side))
    weight, bias = rng.standard_normal((2, 8))
    y, saved = F.group_norm(x, groups, weight, bias, axis=1)
    y64, saved64 = reference.group_norm(x, groups, weight, bias, axis=1)
    assert np.abs(y - y64).max() < 1e-12 * np.abs(y64).max()
    found, wanted = F.group_norm_backward(dy, saved), reference.group_norm_backward(dy, saved64)
    for gradient, other in zip(found, wanted, strict=True):
        assert np.abs(gradient - other).max() < 1e-11 * np.abs(other).max()


@pytest.mark.parametrize("n", [4095, 4097, 6000])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_layer_norm(n: int, dtype: type, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, n)).astype(dtype)
    y, _ = F.layer_norm(x, normalized_shape=(n,))
    y64, _ = reference.layer_norm(x, normalized_shape=(n,))
    tolerance = 1e-6 if dtype is np.float32 else 5e-3
    assert np.abs(y.astype(np.float64) - y64).max() < tolerance * np.abs(y64).max()
