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


def float_model(body, columns, constants):
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, {columns}] x) => (float[N, {columns}] y) <{constants}> {{ {body} }}""")


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("tolerance", [None, 0.5])
def test_numbers_that_are_not_finite_are_noise(columns, tolerance):
    """NaN is no signal, and is as far from a number as can be."""
    # In float16 b overflows where abs(x) > 1.28, and y is NaN. Reshape is what onnxruntime does
    # not do in float32.
    body = """a = Mul (x, big) b = Mul (a, a) f = Reshape (b, flat) r = Reshape (f, rows)
        c = Add (r, one) y = Div (r, c)"""
    constants = f"""float big = {{200}}, float one = {{1}},
        int64[1] flat = {{-1}}, int64[2] rows = {{-1, {columns}}}"""
    wide = float_model(body, columns, constants)
    narrow = to_float16(wide)
    x = np.linspace(0.1, 1.0, 80, dtype=np.float32).reshape(-1, columns)
    assert validate(wide, narrow, data={"x": x}, tolerance=tolerance).agree
    x[3, 0] = 3.0
    report = validate(wide, narrow, data={"x": x}, tolerance=tolerance, min_agreement=0.9)
    assert (report.agree, report.verdict) == (False, "differ")
    assert (report.max_abs_f64, report.snr) == (np.inf, -np.inf)
    assert "output 'y' is not finite at the same places" in report.notes


def test_infinities_of_the_float_network_are_no_noise():
    """They belong at their places; NaN or a number of the other sign does not, nor a bound."""
    begin = "r = Relu (x) l = Log (r) h = Mul (l, half)"
    constants = "float half = {0.5}, float low = {-90}"
    wide, clipped, negative, whole, nan = (
        float_model(f"{begin} y = {end}", 3, constants)
        for end in ("Identity (h)", "Max (h, low)", "Neg (h)", "Add (h, low)", "Sqrt (h)")
    )
    data = {"x": np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)}
    report = validate(wide, to_float16(wide), data=data)
    assert report.agree
    assert 20 < report.snr < 100
    assert validate(wide, to_float16(clipped), data=data, tolerance=0.1).agree
    for other in (negative, whole, nan):
        for tolerance in (None, 0.1):
            narrow = to_float16(other)
            report = validate(wide, narrow, data=data, tolerance=tolerance, min_agreement=0.0)
            assert report.verdict == "differ"
    for rows in (-np.ones((4, 3), np.float32), data["x"][:0]):
        report = validate(wide, to_float16(wide), data={"x": rows})
        assert (report.agree, report.verdict) == (False, "not proven")
        assert report.unproven == ["output 'y' has no finite number in any sample"]


@pytest.mark.parametrize("end", ["Identity (s)", "Unsqueeze (s, axis)"])
def test_samples_of_one_output_are_no_classes(end):
    """Which of 128 samples has the largest output says nothing."""
    constants = "float ten = {10}, int64[1] axis = {1}"
    wide = float_model(f"b = Add (x, ten) s = Squeeze (b, axis) y = {end}", 1, constants)
    if end == "Identity (s)":
        del wide.graph.output[0].type.tensor_type.shape.dim[1]
    x = np.random.default_rng(0).permutation(128)[:, None].astype(np.float32) * 1e-4
    for other in (wide, to_float16(wide)):
        report = validate(wide, other, data={"x": x}, min_agreement=1.0)
        assert report.agree
        assert report.argmax_agreement == 1.0


def test_a_narrow_file_that_does_not_run_differs():
    wide = float_model("y = Identity (x)", 3, "int64[2] five = {5, 1}")
    narrow = to_float16(float_model("y = Reshape (x, five)", 3, "int64[2] five = {5, 1}"))
    report = validate(wide, narrow, data={"x": np.ones((4, 3), np.float32)})
    assert report.verdict == "differ"
    assert "the second model does not run" in report.notes[-1]
