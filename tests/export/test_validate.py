"""The comparison itself: it accepts what agrees and notices what does not."""

from __future__ import annotations

import importlib
import json
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.export import ModelError, validate
from fastbn.export.evaluator import Float64Evaluator, to_float64
from fastbn.export.runtime import Session


def nudged(model, amount):
    """The same model with its first weight changed."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = other.graph.initializer[0]
    values = numpy_helper.to_array(tensor) * np.float32(1 + amount)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return other


def test_one_model():
    report = validate(PATTERNS["conv-bn"].build())
    assert report.agree
    assert 0 < report.max_abs_f64 < 1e-5
    assert report.argmax_agreement == 1.0
    assert json.loads(report.to_json())["agree"] is True


@pytest.mark.parametrize(("amount", "agree"), [(0.0, True), (1e-4, False), (1.0, False)])
def test_two_models(amount, agree):
    model = PATTERNS["mlp"].build()
    report = validate(model, nudged(model, amount))
    assert report.agree is agree
    assert (report.max_abs_f64 > report.tolerance) is not agree


def test_mistake_at_the_border_is_seen():
    """A convolution padded with something else differs only at the border."""
    model = PATTERNS["conv-padded-strided-bn"].build()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for attribute in other.graph.node[0].attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0, 0, 2, 2]
    assert not validate(model, other).agree


def test_data_is_used():
    model = PATTERNS["gemm-bn"].build()
    name = model.graph.input[0].name
    data = {name: np.ones((4, 7), dtype=np.float32)}
    assert validate(model, data=data).samples == validate(model).samples + 1
    with pytest.raises(ModelError, match="no array"):
        validate(model, data={"other": data[name]})
    with pytest.raises(ModelError, match="has shape"):
        validate(model, data={name: np.ones((4, 8), dtype=np.float32)})


def test_not_finite_is_not_equal():
    model = PATTERNS["gemm-bn"].build()
    assert not validate(model, nudged(model, np.inf)).agree


def test_report_is_a_mapping():
    report = validate(PATTERNS["gemm-bn"].build())
    assert dict(report)["samples"] == report.samples == report["samples"]
    with pytest.raises(KeyError):
        report["nothing"]


OWN = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization", "Softmax",
       "LogSoftmax")  # fmt: skip


def node_cases(operator):
    """The node tests onnx ships for one operator, without running all its other generators."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"{node.__name__}.{MODULES.get(operator, operator.lower())}")
    for case in node._NodeTestCases:
        graph = case.model.graph
        if len(graph.node) == 1 and graph.node[0].op_type == operator and not graph.node[0].domain:
            yield case


MODULES = {"BatchNormalization": "batch_normalization"}


@pytest.mark.parametrize("operator", OWN)
def test_evaluator_on_onnx_node_tests(operator):
    ran = 0
    for case in node_cases(operator):
        floats = {v.type.tensor_type.elem_type for v in case.model.graph.input}
        if not floats & {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}:
            continue
        evaluator = Float64Evaluator(case.model)
        for inputs, outputs in case.data_sets:
            names = [v.name for v in case.model.graph.input]
            results = evaluator.run(dict(zip(names, inputs, strict=True)))
            for y, expected in zip(results, outputs, strict=True):
                np.testing.assert_allclose(
                    y, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name
                )
        ran += 1
    assert ran >= 4


@pytest.mark.parametrize("opset", [7, 12, 13])
def test_softmax_over_several_axes(opset):
    """Before opset 13 Softmax runs over everything behind its axis."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ y = Softmax <axis = 1> (x) }}"""
    model = onnx.parser.parse_model(text)
    x = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    (y64,) = Float64Evaluator(model).run(x)
    (y,) = Session(model, "lowest").run(x)
    np.testing.assert_allclose(y, y64, rtol=1e-5)


def test_constants_are_widened():
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float16[2] x) => (float16[2] y) {
        half = Constant <value_float = 0.1> ()
        small = Cast <to = 10> (half)
        y = Mul(x, small)
    }"""
    wide = to_float64(onnx.parser.parse_model(text))
    (y,) = Float64Evaluator(onnx.parser.parse_model(text)).run({"x": np.ones(2, np.float16)})
    assert y.dtype == np.float64
    assert wide.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    np.testing.assert_allclose(y, np.float32(0.1), rtol=1e-7)
