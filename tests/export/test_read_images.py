"""Pools and Resize of a file, in all the forms they have: as onnxruntime computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from read_cases import worst_error

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import from_onnx


def one(operator: str, size: int, *inputs: Any, opset: int = 18, **attributes: Any) -> Any:
    """A graph of one node on an image of 2 channels, `size` by 5 pixels."""
    g = Sketch(opset=opset)
    x = g.input(2, size, 5)
    return g.model(g.op(operator, [x, *(i and g.constant(*i) for i in inputs)], **attributes))


def agrees(model: onnx.ModelProto) -> bool:
    return worst_error(from_onnx(model), model) < 1e-5


# --- pools ------------------------------------------------------------------------------------


def test_a_window_over_the_end_counts_what_is_there() -> None:
    """Padding after the image, and behind that places that do not exist."""
    for more in ({}, {"count_include_pad": 1}):
        pads = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}
        assert agrees(one("AveragePool", 5, ceil_mode=1, **pads, **more))


def test_a_window_that_starts_behind_the_image_is_none() -> None:
    pads = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}
    for operator in ("MaxPool", "AveragePool"):
        assert agrees(one(operator, 4, ceil_mode=1, **pads))


@pytest.mark.parametrize("seed", range(60))
def test_pools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.integers(1, 5, 2).tolist()
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": rng.integers(1, 4, 2).tolist(),
        "pads": [int(rng.integers(0, k)) for k in kernel * 2],
        "ceil_mode": seed % 3 % 2,
    }
    if seed % 2:
        attributes["count_include_pad"] = seed // 2 % 2
    assert agrees(one("AveragePool" if seed % 2 else "MaxPool", 9, opset=19, **attributes))


# --- Resize -----------------------------------------------------------------------------------


NEAREST = {
    "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
}  # fmt: skip


def to_size(size: int, out: int, *, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    return one("Resize", size, "", "", ([out, 7], np.int64), opset=opset, axes=[2, 3], **attributes)


def by_scale(size: int, scale: float, *, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    scales = [1.0, 1.0, scale, 1.0]
    if opset < 9:
        return one("Upsample", size, opset=opset, scales=scales, **attributes)
    if opset < 11:
        return one(
            "Upsample" if opset < 10 else "Resize", size, (scales,), opset=opset, **attributes
        )
    region = ([],) if opset < 13 else ""  # which may not be left out before
    return one("Resize", size, region, (scales,), opset=opset, **attributes)


@pytest.mark.parametrize(("size", "out"), [(5, 7), (6, 7), (7, 13), (9, 17), (13, 25), (10, 13)])
def test_sizes_are_those_of_the_file(size: int, out: int) -> None:
    """A size is not lost to the rounding of its multiple."""
    assert agrees(to_size(size, out, **NEAREST))


def test_a_multiple_is_rounded_as_a_narrow_number() -> None:
    """10 times 1.3 is 13 in float32, and less in float64."""
    assert agrees(by_scale(10, 1.3, **NEAREST))


def test_an_axis_that_keeps_its_size_is_resampled() -> None:
    """Unless all do."""
    for width in (1.0, 2.0):
        scales = [1.0, 1.0, 1.05, width]
        assert agrees(one("Resize", 10, "", (scales,), mode="linear"))


WHERE = (
    "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric",
)  # fmt: skip
ROUND = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, where: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        attributes["nearest_mode"] = ROUND[seed % 4]
    if mode == "cubic":
        attributes["exclude_outside"] = seed // 2 % 2
    size, out = rng.integers(2, 30, 2).tolist()
    draw = to_size if seed % 2 else by_scale
    assert agrees(
        draw(size, out if seed % 2 else round(out / size, 1) + 0.1, opset=19, **attributes)
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_without_aliasing(mode: str) -> None:
    assert agrees(to_size(12, 5, mode=mode, antialias=1))


@pytest.mark.parametrize("scale", [2.0, 1.3, 0.6])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [8, 9, 10, 11, 13])
def test_resize_of_older_files(opset: int, mode: str, scale: float) -> None:
    if opset > 9 or scale > 1.0:
        assert agrees(by_scale(10, scale, opset=opset, mode=mode))
