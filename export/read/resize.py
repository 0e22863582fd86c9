"""Resize, Upsample: images of another size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fastbn import nn
from fastbn.budgets import require_memory
from fastbn.export.errors import one_line
from fastbn.export.read.node import Node, reads
from fastbn.export.read.value import UnreadableError, Value, permuted
from fastbn.export.runtime import RuntimeRefusalError, Session

Array = NDArray[Any]


@reads("Resize", "Upsample")
def resize(node: Node) -> Value:
    """Read whole multiples as Upsample, other sizes as a fixed matrix along either axis."""
    x = node.value()
    if x.rank != 4:
        raise UnreadableError("only images are read")
    sizes, scales, by_size = _sizes(node, x)
    if sizes[:2] != [*x.shape[:2]]:
        raise UnreadableError("it changes the number of samples or channels")
    if sizes == [*x.shape]:
        return x
    image = x.channels_last()
    mode = _mode(node, scales[2:])
    if mode is not None:
        layer = nn.Upsample((int(scales[2]), int(scales[3])), mode)
        return x.from_channels_last(layer(image))
    for axis in (2, 3):
        if scales[axis] != 1.0:
            by = sizes[axis] if by_size else scales[axis]
            image = _along(image, axis - 1, _matrix(node, x.shape[axis], sizes[axis], by))
    return x.from_channels_last(image)


def _sizes(node: Node, x: Value) -> tuple[list[int], list[float], bool]:
    """Return the sizes of the output, what they are multiples by, and whether the file has them."""
    scales: list[float] | None
    if node.operator == "Upsample" and node.opset < 9:
        found = node.node.attributes.get("scales")
        scales = None if found is None else [float(n) for n in found.as_floats()]
    else:
        place = 1 if node.operator == "Upsample" or node.opset < 11 else 2
        given = node.weight(place)
        scales = None if given is None or not given.size else [float(n) for n in given]
    wanted = node.integers(3) if node.opset >= 11 else None
    axes = node.wholes("axes")
    places = [*range(x.rank)] if axes is None else [x.axis(a) for a in axes]
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnreadableError("it keeps the aspect ratio")
    if len(places) != len(wanted or scales or places):
        raise UnreadableError("its sizes do not fit the axes")
    sizes, factors = [*x.shape], [1.0] * x.rank
    for k, axis in enumerate(places):
        if scales is not None:
            factors[axis] = scales[k]
            sizes[axis] = _made(x.shape[axis], scales[k])
        elif wanted:
            sizes[axis] = wanted[k]
            factors[axis] = wanted[k] / x.shape[axis]
    if min(sizes) < 1:
        raise UnreadableError(f"sizes {sizes}")
    require_memory(4 * math.prod(sizes[2:]) + 4 * sum(sizes), 0, "a resized image")
    return sizes, factors, scales is None


def _made(size: int, scale: float) -> int:
    """Return a size times a scale, as runtimes work it out."""
    return math.floor(float(np.float32(size) * np.float32(scale)))


def _mode(node: Node, scales: list[float]) -> str | None:
    """Return the mode of the Upsample that does the same, None if there is none."""
    if any(s != int(s) or s < 1 for s in scales):
        return None
    mode = node.text("mode", "nearest")
    where = node.text("coordinate_transformation_mode", "half_pixel")
    if node.operator == "Upsample" or node.opset < 11:
        return "nearest" if mode == "nearest" else None
    if mode == "nearest":
        rounding = node.text("nearest_mode", "round_prefer_floor")
        same = (where, rounding) == ("asymmetric", "floor") or (
            where in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
            and rounding in ("round_prefer_floor", "round_prefer_ceil")
        )
        return "nearest" if same else None
    if mode == "linear" and where in ("half_pixel", "half_pixel_symmetric"):
        return "bilinear"
    return None


def _matrix(node: Node, size: int, out: int, by: int | float) -> Array:
    """Return what resizing does along one axis, as a matrix (out, in): of the identity's rows.

    onnxruntime itself makes it, for where a place is rounded depends on how it is worked out.
    """
    if node.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnreadableError("it crops")
    require_memory(16 * size * (size + 2 * out), 0, "resizing as a matrix")
    proto = ir.to_proto(node.node)
    proto.input[:] = ["x"]
    proto.output[:] = ["y"]
    attributes = [a for a in proto.attribute if a.name not in ("axes", "scales")]
    del proto.attribute[:]
    proto.attribute.extend(attributes)
    # Twice as wide, for what keeps all its sizes is copied, whatever the multiples.
    whole = isinstance(by, int)
    factors = np.array([size if whole else 1, 1, by, 2], np.int64 if whole else np.float32)
    weights = []
    if node.operator == "Upsample" and node.opset < 9:
        proto.attribute.append(helper.make_attribute("scales", factors.tolist()))
    else:
        weights.append(numpy_helper.from_array(factors, "by"))
        between = 0 if node.opset < 11 else 2 if whole else 1
        proto.input.extend([*[""] * between, "by"])
    rows = np.eye(size, dtype=np.float32).reshape(size, 1, size, 1)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")
    ]
    graph = helper.make_graph([proto], "resize", ends[:1], ends[1:], weights)
    opset = node.opset if node.opset < 11 else max(node.opset, 13)  # which may leave inputs out
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        [result] = Session(model).run({"x": rows})
    except RuntimeRefusalError as error:
        raise UnreadableError(one_line(error)) from None
    return np.ascontiguousarray(result[:, 0, :, 0].T)


def _along(image: nn.Symbol, axis: int, matrix: Array) -> nn.Symbol:
    """Multiply an axis of an image by a fixed matrix."""
    last = len(image.shape)
    there = (*(a for a in range(last + 1) if a != axis), axis)
    back = tuple(int(n) for n in np.argsort(there))
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, rng=0)
    layer.weight.data = matrix
    layer.requires_grad_(False)
    return permuted(layer(permuted(image, there)), back)
