"""NCHW: samples are taken together, and planes cut into pieces, in every combination."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import error

from fastbn import functional as F
from fastbn import reference


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("length", [65, 67, 130, 196, 255, 257, 1023, 1025, 2049, 4099])
@pytest.mark.parametrize("shift", [0, 1, 3])  # of x and y, in values, against a cache line
def test_equals_the_reference(
    samples: int, length: int, shift: int, rng: np.random.Generator, set_threads: Any
) -> None:
    shape = (samples, 5 if length < 600 else 3, length)
    size = int(np.prod(shape))
    x = (rng.standard_normal(size + 16, np.float32) * 2 + 100)[shift : shift + size].reshape(shape)
    y = np.full(size + 16, np.nan, np.float32)[3 - shift : 3 - shift + size].reshape(shape)
    dy = rng.standard_normal(shape, np.float32)
    weight, bias = rng.standard_normal((2, shape[1]), np.float32)
    options: dict[str, Any] = {"training": True, "axis": 1, "activation": "relu"}
    if shift:
        options["residual"] = rng.standard_normal(shape, np.float32)
    y64, saved64 = reference.batch_norm(x, weight, bias, **options)
    gradients64 = reference.batch_norm_backward(dy, saved64)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        _, saved = F.batch_norm(x, weight, bias, out=y, **options)
        gradients = F.batch_norm_backward(dy, saved)
        assert error(y, y64) < 1e-6
        for gradient, gradient64 in zip(gradients, gradients64, strict=True):
            assert error(gradient, gradient64) < 1e-5
        results.append([y.copy(), *gradients])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
