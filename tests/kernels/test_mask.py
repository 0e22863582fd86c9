"""Dropout's mask: where its seed comes from, and what it does to NaN and to large arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import functional as F
from fastbn import reference

DTYPES = [np.float32, np.float64]
BITS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


@pytest.mark.parametrize("kind", BITS)
def test_every_generator_gives_numpys_next_integer(kind: Any) -> None:
    ours, numpys = np.random.Generator(kind(7)), np.random.Generator(kind(7))
    for generator in (ours, numpys):
        generator.integers(10, dtype=np.uint32)  # half a number may wait in the generator
    _, saved = F.dropout(np.ones(3), 0.5, rng=ours)
    assert saved.seed == numpys.integers(0, 1 << 64, dtype=np.uint64)
    assert ours.random() == numpys.random()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 16383, 16385, 3_000_001])
def test_mask_is_the_documented_one(size: int, dtype: Any) -> None:
    x = np.ones(size, dtype)
    y, saved = F.dropout(x, 0.3, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(y != 0, reference.dropout_keep(saved.seed, size, 0.3))
    np.testing.assert_array_equal(F.dropout_backward(x, saved), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_not_hidden(dtype: Any) -> None:
    x = np.full(40, np.nan, dtype)
    for p in (0.5, 1.0):
        assert np.isnan(F.dropout(x, p)[0]).all()


def test_only_generators_are_drawn_from() -> None:
    with pytest.raises(TypeError, match=r"rng: expected a numpy.random.Generator, got RandomState"):
        F.dropout(np.ones(3), 0.5, rng=np.random.RandomState(0))  # type: ignore[arg-type]


def test_a_refused_call_leaves_the_generator_alone() -> None:
    generator = np.random.default_rng(3)
    with pytest.raises(ValueError, match="out"):
        F.dropout(np.ones((4, 4)), 0.5, rng=generator, out=np.ones(3))
    assert generator.random() == np.random.default_rng(3).random()
