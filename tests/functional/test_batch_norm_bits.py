"""The same bits, whatever the number of threads and wherever arrays stand in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import functional as F

# Channels-last shapes: rows of one, runs around a vector's and a cache line's width, whole groups.
SHAPES = st.one_of(
    st.tuples(st.integers(2, 900), st.integers(1, 70)),
    st.tuples(st.integers(1, 17), st.integers(1, 20), st.integers(1, 20), st.integers(1, 40)),
    st.sampled_from([(70, 1100), (16, 14, 14, 33), (16, 7, 7, 64), (3, 70, 70, 9), (40, 7, 7, 99)]),
).filter(lambda shape: np.prod(shape[:-1]) > 1)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = fastbn.get_num_threads()
    yield
    fastbn.set_num_threads(before)


def placed(array: Any, offset: int) -> Any:
    """Return a copy that begins `offset` bytes behind a cache line."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def everything(
    arrays: dict[str, Any], call: dict[str, Any], threads: int, offset: int
) -> list[bytes]:
    """Bits of all that a forward and a backward compute, and of what they update."""
    fastbn.set_num_threads(threads)
    at = {name: placed(array, offset) for name, array in arrays.items() if array is not None}
    dy, x, residual = at.pop("dy"), at.pop("x"), at.pop("residual", None)
    itemsize = x.dtype.itemsize
    out, dx = (placed(x, offset // itemsize * itemsize) for _ in range(2))
    y, saved = F.batch_norm(x, **at, **call, residual=residual, out=out)
    gradients = F.batch_norm_backward(dy, saved, out=dx)
    return [a.tobytes() for a in (y, *gradients, at["running_mean"], at["running_var"])]


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES, axis=st.sampled_from([-1, 1]),
    dtype=st.sampled_from([np.float32, np.float64, ml_dtypes.bfloat16]),
    activation=st.sampled_from([None, "relu", "leaky_relu", "gelu", "hardswish"]),
    residual=st.booleans(),
    training=st.booleans(), offset=st.integers(1, 63), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@example(
    shape=(16, 14, 14, 64), axis=1, dtype=np.float32, activation="relu", residual=False,
    training=True, offset=4, seed=0,
)  # fmt: skip
@example(
    shape=(400, 300, 40), axis=-1, dtype=np.float32, activation="relu", residual=True,
    training=True, offset=8, seed=0,
)  # fmt: skip
@example(
    shape=(40, 40, 40, 20), axis=1, dtype=np.float32, activation=None, residual=True,
    training=True, offset=12, seed=0,
)  # fmt: skip
def test_threads_and_places_do_not_matter(
    shape: tuple[int, ...], axis: int, dtype: Any, activation: str | None, residual: bool,
    training: bool, offset: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x, dy, r = (
        np.ascontiguousarray(np.moveaxis(rng.standard_normal(shape) + 3, -1, axis)).astype(dtype)
        for _ in range(3)
    )
    parameters = np.float32 if dtype is ml_dtypes.bfloat16 else dtype
    c = shape[-1]
    arrays = {"x": x, "dy": dy, "residual": r if residual else None}
    call = {"training": training, "axis": axis, "activation": activation}
    for name in ("weight", "bias", "running_mean", "running_var"):
        arrays[name] = rng.uniform(0.5, 1.5, c).astype(parameters)
    truth = everything(arrays, call, threads=1, offset=0)
    for threads in (1, 2, 3, 4):
        # parameters and running statistics must be aligned to their own size
        aligned = offset // 8 * 8
        assert everything(arrays, call, threads, aligned) == truth
    names = ("x", "dy", "residual")
    moved = {n: placed(a, offset) if n in names and a is not None else a for n, a in arrays.items()}
    fastbn.set_num_threads(1)
    y, saved = F.batch_norm(moved.pop("x"), **call, **{k: moved[k] for k in ("weight", "bias")},
                            residual=moved["residual"], running_mean=arrays["running_mean"].copy(),
                            running_var=arrays["running_var"].copy())  # fmt: skip
    gradients = F.batch_norm_backward(moved["dy"], saved)
    assert [a.tobytes() for a in (y, *gradients)] == truth[:-2]
