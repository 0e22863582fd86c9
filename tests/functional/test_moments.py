"""Statistics only, scaling only, and what they make together."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import functional as F
from fastbn import reference

SHAPES = [(1, 1), (2, 1), (17, 15), (300, 70), (5, 3, 3, 20), (3, 40, 7, 7), (2, 3, 65, 70)]


def error(found: Any, truth: Any) -> float:
    return float(np.abs(found - truth).max() / max(np.abs(truth).max(), 1e-300))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_are_those_of_the_reference(
    shape: tuple[int, ...], axis: int, dtype: Any, rng: np.random.Generator
) -> None:
    x = (rng.standard_normal(shape) + 100).astype(dtype)
    found, _ = F.batch_moments(x, axis)
    (count, mean, m2), _ = reference.batch_moments(x, axis)
    assert found.count == count
    assert found.mean.dtype == found.m2.dtype == np.float64
    assert error(found.mean, mean) < 1e-7
    assert error(found.m2, m2) < 1e-5
    np.testing.assert_allclose(found.var, found.m2 / count)


@pytest.mark.parametrize("axis", [-1, 1])
def test_moments_do_not_depend_on_threads(axis: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((40, 30, 20, 30)).astype(np.float32)
    before = fastbn.get_num_threads()
    try:
        fastbn.set_num_threads(1)
        one, _ = F.batch_moments(x, axis)
        for threads in (2, 3, 4):
            fastbn.set_num_threads(threads)
            more, _ = F.batch_moments(x, axis)
            np.testing.assert_array_equal(more.mean, one.mean)
            np.testing.assert_array_equal(more.m2, one.m2)
    finally:
        fastbn.set_num_threads(before)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value per channel"):
        F.batch_moments(np.empty((0, 3), np.float32))


@pytest.mark.parametrize("axis", [-1, 1])
def test_gradient_of_moments_is_the_difference_quotient(
    axis: int, rng: np.random.Generator
) -> None:
    x, direction = rng.standard_normal((2, 5, 4, 3, 4))
    dmean, dvar = rng.standard_normal((2, 4))

    def loss(x: Any) -> float:
        moments, _ = F.batch_moments(x, axis)
        return float(dmean @ moments.mean + dvar @ moments.var)

    dx = F.batch_moments_backward(dmean, dvar, F.batch_moments(x, axis)[1])
    step = 1e-6
    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert (dx * direction).sum() == pytest.approx(slope, rel=1e-8)
    twin = reference.batch_moments_backward(dmean, dvar, reference.batch_moments(x, axis)[1])
    np.testing.assert_allclose(dx, twin, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    channels=st.integers(1, 20), offset=st.sampled_from([0.0, 1e4, -1e8]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_merged_parts_are_the_whole(
    sizes: list[int], channels: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    nothing = F.Moments(0, np.zeros(channels), np.zeros(channels))
    parts = [rng.standard_normal((n, channels)) + offset + 10 * k for k, n in enumerate(sizes)]
    taken = [F.batch_moments(part)[0] if len(part) else nothing for part in parts]
    merged = F.merge_moments(taken)
    (count, mean, m2), _ = reference.batch_moments(np.concatenate(parts))
    assert merged.count == count
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(merged.m2, m2, rtol=1e-6, atol=1e-6)
    twin = reference.merge_moments([part for part in taken if part.count])
    np.testing.assert_allclose(merged.m2, twin[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no values"),
        ([(0, [0.0], [0.0])], "no values"),
        ([(1, [0.0], [0.0]), (1, [0.0, 1.0], [0.0, 1.0])], "part 1 has 2 channels"),
        ([(1, [0.0], [0.0, 1.0])], "part 0: expected mean and m2"),
        ([(-1, [0.0], [0.0])], "part 0: count"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        F.merge_moments(parts)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_scale_shift_is_the_references(
    shape: tuple[int, ...], axis: int, residual: bool, activation: str | None,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    c = shape[axis]
    centre = rng.standard_normal(c) * 1e6
    x, dy, r = rng.standard_normal((3, *shape))
    x = (x + np.moveaxis(np.broadcast_to(centre, np.moveaxis(x, axis, -1).shape), -1, axis)).astype(
        np.float32
    )
    scale, shift = rng.standard_normal((2, c)).astype(np.float32)
    call: dict[str, Any] = {"axis": axis, "activation": activation}
    call["residual"] = r.astype(np.float32) if residual else None
    y, saved = F.scale_shift(x, scale, shift, centre, **call)
    y64, saved64 = reference.scale_shift(x, scale, shift, centre, **call)
    assert error(y, y64) < 1e-6
    dy = np.where(np.abs(y64) < 1e-4, 0, dy).astype(np.float32)
    slope, constant = rng.standard_normal((2, c))
    for terms in ({}, {"slope": slope, "constant": constant}):
        truths = reference.scale_shift_backward(dy, saved64, **terms)
        for gradient, truth in zip(F.scale_shift_backward(dy, saved, **terms), truths, strict=True):
            assert error(gradient, truth) < 2e-6
        found = F.scale_shift_backward(
            dy, saved, need_dscale=False, need_dshift=False, **terms, out=dy.copy()
        )
        assert found[1:3] == (None, None)
        assert error(found[0], truths[0]) < 2e-6


@pytest.mark.parametrize("axis", [-1, 1])
def test_both_halves_together_are_batch_norm(axis: int, rng: np.random.Generator) -> None:
    """Forward and backward, the gradients through the statistics included."""
    x, dy = rng.standard_normal((2, 6, 5, 4, 5))
    weight, bias = rng.standard_normal((2, 5))
    eps = 1e-5
    y, saved = F.batch_norm(x, weight, bias, training=True, axis=axis, eps=eps)
    dx, dweight, dbias = F.batch_norm_backward(dy, saved)

    moments, saved_moments = F.batch_moments(x, axis)
    invstd = 1 / np.sqrt(moments.var + eps)
    scale = weight * invstd
    y2, saved2 = F.scale_shift(x, scale, bias, moments.mean, axis=axis)
    dx2, dscale, dshift = F.scale_shift_backward(dy, saved2)
    dmean = -scale * dshift
    dvar = dscale * weight * -0.5 * invstd**3
    dx2 = dx2 + F.batch_moments_backward(dmean, dvar, saved_moments)
    np.testing.assert_allclose(y2, y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx2, dx, rtol=1e-10, atol=1e-12)
    terms = {
        "slope": -scale * invstd**2 * dscale / moments.count,
        "constant": -scale * dshift / moments.count,
    }
    dx3 = F.scale_shift_backward(dy, saved2, **terms)[0]
    np.testing.assert_allclose(dx3, dx, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dscale * invstd, dweight, rtol=1e-10)
    np.testing.assert_allclose(dshift, dbias, rtol=1e-12)


def test_out_and_its_errors(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 3)).astype(np.float32)
    y, _ = F.scale_shift(x, None, None, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(y, x - [1, 2, 3], rtol=1e-6)
    out, _ = F.scale_shift(x, None, None, np.array([1.0, 2.0, 3.0]), out=x)
    assert out is x
    np.testing.assert_array_equal(out, y)
    with pytest.raises(ValueError, match="scale should contain 3 elements"):
        F.scale_shift(x, np.ones(2, np.float32), None)
    with pytest.raises(TypeError, match="centre: expected float64"):
        F.scale_shift(x, None, None, np.ones(3, np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [-1, 1])
def test_terms_of_dx_are_the_same_bits_for_all_threads(
    axis: int, rng: np.random.Generator, set_threads: Any
) -> None:
    x, dy = rng.standard_normal((2, 64, 16, 24, 24), dtype=np.float32)
    c = x.shape[axis]
    slope, constant = rng.standard_normal((2, c))
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        _, saved = F.scale_shift(x, np.ones(c, np.float32), None, np.zeros(c), axis=axis)
        found.append(F.scale_shift_backward(dy, saved, slope=slope, constant=constant)[0])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_terms_of_dx_go_with_constant_statistics(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3))
    _, saved = F.batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match="constant statistics"):
        F.scale_shift_backward(x, saved, slope=np.ones(3), constant=np.ones(3))
    _, saved = F.scale_shift(x, None, None)
    with pytest.raises(ValueError, match="go together"):
        F.scale_shift_backward(x, saved, slope=np.ones(3))
    with pytest.raises(ValueError, match="constant should contain"):
        F.scale_shift_backward(x, saved, slope=np.ones(3), constant=np.ones(2))
