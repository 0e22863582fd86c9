"""A narrow file beside its float network: noise and classes decide, on data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import validate
from fastbn.export.narrow import as_inputs
from fastbn.export.precision import to_float16, to_int8


@pytest.fixture(scope="module")
def wide():
    g = Sketch(3)
    h = g.relu(g.conv(g.input(2, 6, 6, name="x"), 8, bias=True))
    h = g.op("Flatten", [g.op("GlobalAveragePool", [h])])
    return g.model(g.gemm(h, 4, features=8))


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal((150, 2, 6, 6)).astype(np.float32)


def worse(model):
    """The same with half of a weight gone."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = max(other.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    values = numpy_helper.to_array(tensor).copy()
    values[: len(values) // 2] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return other


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_noise_and_classes_decide(wide, data, kind):
    narrow = to_int8(wide, data) if kind == "int8" else to_float16(wide)
    report = validate(wide, narrow, data={"x": data}, min_agreement=0.9)
    assert report.agree, report
    assert report.samples == 3  # batches
    assert report.snr > 20
    assert 0.9 <= report.argmax_agreement <= 1
    bad = validate(wide, worse(narrow), data={"x": data}, min_agreement=0.9)
    assert bad.verdict == "differ"
    assert validate(wide, narrow, data={"x": data}, tolerance=1e-9).verdict != "agree"


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_alone_it_is_not_compared(wide, data, kind):
    narrow = to_int8(wide, data) if kind == "int8" else to_float16(wide)
    report = validate(narrow)
    assert (report.agree, report.verdict) == (False, "not compared")


def test_images_as_inputs(wide):
    images = np.zeros((5, 6, 6, 2), np.float32)
    assert as_inputs(wide, images)["x"].shape == (5, 2, 6, 6)
    with pytest.raises(ValueError, match="do not fit"):
        as_inputs(wide, images[:, :4])


def test_own_tolerance(wide):
    """In place of what rounding explains."""
    other = onnx.ModelProto()
    other.CopyFrom(wide)
    tensor = other.graph.initializer[-1]
    values = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert not validate(wide, other).agree
    assert validate(wide, other, tolerance=0.05).agree
    assert not validate(wide, other, tolerance=0.001).agree
