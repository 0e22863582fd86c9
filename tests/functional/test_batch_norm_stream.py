"""Streaming past the caches and asking memory ahead change no bit of a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastbn import functional as F
from fastbn.kernels import runtime

# N, C, H, W: single runs and groups of them, rows that are left over, channels that fill no group,
# runs that end inside a line
SHAPES = [
    (4, 3, 56, 56), (6, 5, 28, 28), (3, 4, 28, 28), (1, 4, 32, 32), (9, 8, 14, 14), (16, 7, 14, 14),
    (8, 64, 7, 7), (5, 33, 7, 7), (16, 20, 10, 10), (7, 12, 9, 9), (4, 48, 6, 6), (5, 6, 4, 4),
    (13, 7, 20, 20), (2, 3, 33, 31),
    (9, 96, 3, 5), (3, 1100, 3, 3),  # channels side by side: across the rows, and in pieces of them
]  # fmt: skip


@pytest.fixture(autouse=True)
def stores_as_before() -> Iterator[None]:
    yield
    runtime.stream_from(None)


def placed(like: Any, start: int) -> Any:
    """Return an array of the same shape that begins `start` values behind the start of a line."""
    room = np.empty(like.size + 128, like.dtype)
    first = -room.ctypes.data % 64 // like.itemsize + start
    return room[first : first + like.size].reshape(like.shape)


def everything(
    x: Any, residual: Any, dy: Any, axis: int, activation: str | None, start: int
) -> list[bytes]:
    """Return the bits of all results; what is written is `placed`."""
    C = x.shape[axis]
    number = np.float64 if x.dtype == np.float64 else np.float32
    weight, bias = np.linspace(-1, 2, C, dtype=number), np.linspace(0.5, -0.5, C, dtype=number)
    mean, var = np.zeros(C, number), np.ones(C, number)
    y, dx, dresidual = (placed(x, start) for _ in range(3))
    _, saved = F.batch_norm(
        x, weight, bias, mean, var, training=True, axis=axis, activation=activation,
        residual=residual, out=y,
    )  # fmt: skip
    into = {"out": dx} if residual is None else {"out": dx, "dresidual": dresidual}
    results = (y, mean, var, *F.batch_norm_backward(dy, saved, **into))
    if residual is not None:  # the residual's gradient alone, and beside a dx that stands elsewhere
        alone = placed(x, start)
        only = F.batch_norm_backward(dy, saved, need_dx=False, dresidual=alone)
        into = {"out": placed(x, start + 1), "dresidual": placed(x, start)}
        results += (*only, *F.batch_norm_backward(dy, saved, **into))
    return [result.tobytes() for result in results if result is not None]


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [1, -1])
def test_streaming_changes_no_bit(
    axis: int, dtype: Any, activation: str | None, with_residual: bool, set_threads: Any
) -> None:
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x, dy, addend = (
            np.moveaxis((rng.standard_normal(shape) * 2 + 3).astype(dtype), 1, axis).copy()
            for _ in range(3)
        )
        residual = addend if with_residual else None
        for start in (0, 1):
            runtime.stream_from(float("inf"))
            set_threads(1)
            truth = everything(x, residual, dy, axis, activation, start)
            for line_by_line, threads in ((False, 1), (False, 3), (True, 1), (True, 3)):
                runtime.stream_from(0, line_by_line)
                set_threads(threads)
                assert everything(x, residual, dy, axis, activation, start) == truth, shape
