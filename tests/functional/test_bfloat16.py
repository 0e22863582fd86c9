"""bfloat16 in batch_norm: every pattern is rounded once and to even, and a NaN stays one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastbn import functional as F

BF16 = ml_dtypes.bfloat16
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
PAYLOADS = [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]
# Channels-last and (N, C): whole units, odd ends, rows taken as one; NCHW: long runs, short maps.
PLACES = [((64, 64), -1), ((9, 5, 77), -1), ((60, 3), -1), ((2, 37, 20, 20), 1), ((4, 19, 3, 3), 1)]


def channels(shape: tuple[int, ...], axis: int, c: int) -> tuple[Any, ...]:
    """Return the index of channel c."""
    return tuple(c if i == axis % len(shape) else slice(None) for i in range(len(shape)))


@pytest.mark.parametrize("shape", [(512, 128), (1 << 12, 16), (1 << 8, 256)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_every_pattern_is_rounded_as_ml_dtypes_does(
    shape: tuple[int, int], axis: int, rng: np.random.Generator
) -> None:
    n, c = shape
    weight = rng.uniform(0.5, 2.0, c).astype(np.float32)
    weight[::2] = 1 + 2.0**-8 * np.arange(1, c + 1, 2)  # exact products: many lie in the middle
    stats = np.zeros(c, np.float32), np.ones(c, np.float32)
    x = PATTERNS.view(BF16).reshape(n, c)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        y32 = x.astype(np.float32) * weight
        truth = y32.astype(BF16)
    if axis == 1:
        x, truth = (np.ascontiguousarray(a.T)[None] for a in (x, truth))  # (1, C, n)
    y, _ = F.batch_norm(x, weight, None, *stats, training=False, eps=0.0, axis=axis)
    np.testing.assert_array_equal(y.astype(np.float32), truth.astype(np.float32))


@pytest.mark.parametrize(("shape", "axis"), PLACES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "gelu", "silu", "mish"])
def test_every_nan_in_x_and_dy_stays_one(
    shape: tuple[int, ...], axis: int, training: bool, activation: str | None
) -> None:
    c, patterns = shape[axis], PATTERNS.view(BF16)
    nans = patterns[np.isnan(patterns.astype(np.float32))]
    x, dy = np.ones(shape, BF16), np.ones(shape, BF16)
    x += np.linspace(-1, 1, x.size).reshape(shape).astype(BF16)
    for start in range(0, nans.size, x.size):
        some = nans[start : start + x.size]
        own = x.copy()
        own.reshape(-1)[: some.size] = some
        stats = np.zeros(c, np.float32), np.ones(c, np.float32)
        options: dict[str, Any] = {"training": training, "axis": axis, "activation": activation}
        y, _ = F.batch_norm(own, None, None, *stats, **options)
        assert np.isnan(y.astype(np.float32)).reshape(-1)[: some.size].all()
        own_dy = dy.copy()
        own_dy.reshape(-1)[: some.size] = some
        _, saved = F.batch_norm(
            np.abs(x) + np.ones((), BF16), None, np.full(c, 9, np.float32), *stats, **options
        )
        dx = F.batch_norm_backward(own_dy, saved)[0]
        assert np.isnan(dx.astype(np.float32)).reshape(-1)[: some.size].all()


@pytest.mark.parametrize(("shape", "axis"), PLACES)
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("where", ["weight", "bias", "running_mean", "running_var"])
def test_a_nan_parameter_makes_its_channel_nan(
    shape: tuple[int, ...], axis: int, payload: int, where: str, rng: np.random.Generator
) -> None:
    c = shape[axis]
    x, dy = (rng.standard_normal(shape).astype(BF16) for _ in range(2))
    given = {name: np.ones(c, np.float32) for name in ("weight", "bias")}
    given |= {name: np.ones(c, np.float32) for name in ("running_mean", "running_var")}
    given[where][1:2].view(np.uint32)[...] = payload
    for activation in (None, "relu", "gelu"):
        options: dict[str, Any] = {"axis": axis, "activation": activation}
        y, saved = F.batch_norm(x, **given, training=False, **options)
        results = [y]
        if where in {"weight", "running_var"}:
            results.append(F.batch_norm_backward(dy, saved)[0])
        if where in {"weight", "bias"}:
            y, saved = F.batch_norm(x, given["weight"], given["bias"], training=True, **options)
            results.append(y)
            if where == "weight":
                results.append(F.batch_norm_backward(dy, saved)[0])
        for result in results:
            nan = np.isnan(result.astype(np.float32))
            assert nan[channels(shape, axis, 1)].all()
            assert not nan[channels(shape, axis, 0)].any()
