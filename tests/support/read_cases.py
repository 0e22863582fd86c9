"""A model of the file's own making beside the network that was read from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from fastbn import nn

Array = np.ndarray[Any, np.dtype[Any]]


def channels_last(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim > 2 else x


def channels_first(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x


def shapes_of(net: nn.Module) -> list[tuple[int, ...]]:
    shape: Any = net.input_shape
    return [*shape] if isinstance(shape[0], tuple) else [shape]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def samples(net: nn.Module, rows: int, seed: int = 0) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((rows, *shape)) for shape in shapes_of(net)]
    return tuple(x.astype(np.float16).astype(np.float32) for x in drawn)


def predicted(net: nn.Module, xs: tuple[Array, ...]) -> list[Array]:
    y = net.predict(xs if len(xs) > 1 else xs[0])
    return [*y] if isinstance(y, tuple) else [y]


def worst_error(net: nn.Module, model: onnx.ModelProto, rows: int = 3) -> float:
    """Largest difference from onnxruntime over all outputs, relative to each one's size."""
    runtime = session(model)
    xs = samples(net, rows)
    kinds = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
    feeds = {
        given.name: channels_first(x).astype(kinds.get(given.type, np.float32))
        for given, x in zip(runtime.get_inputs(), xs, strict=True)
    }
    if net.dtype == np.float64:
        xs = tuple(x.astype(np.float64) for x in xs)
    expected = [channels_last(y) for y in runtime.run(None, feeds)]
    found = predicted(net, xs)
    assert [y.shape for y in found] == [y.shape for y in expected]
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
