"""Weights behind DequantizeLinear: the integers stay, the scales take the BatchNorm in."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm
from fastbn.export.power import made_tensors

OUT = 4


def dequantised(g, whole, steps, axis=None):
    """Integers and their scales as a value."""
    steps = np.asarray(steps)
    zero = np.zeros(steps.shape, whole.dtype)
    inputs = [g.constant(whole, whole.dtype), g.constant(steps), g.constant(zero, whole.dtype)]
    axis = axis if steps.ndim else None
    g.nodes.append(
        helper.make_node(
            "DequantizeLinear",
            inputs,
            [g.fresh("wide")],
            **({} if axis is None else {"axis": axis}),
        )
    )
    return g.nodes[-1].output[0]


def network(*, per_axis, bias=None, signs="positive", opset=17, operator="Conv"):
    """A quantised input and weight, a linear operator, a BatchNorm."""
    g = Sketch(1, opset=opset)
    x = g.input(*((3, 8, 8) if operator == "Conv" else (3,)))
    step, zero = g.constant(0.02), g.constant(np.asarray(0), np.int8)
    x = g.op("DequantizeLinear", [g.op("QuantizeLinear", [x, step, zero]), step, zero])
    shape = (OUT, 3, 3, 3) if operator == "Conv" else (OUT, 3)
    whole = g.rng.integers(-127, 128, shape).astype(np.int8)
    steps = g.rng.uniform(0.005, 0.02, OUT) if per_axis else np.asarray(0.01)
    inputs = [x, dequantised(g, whole, steps, 0)]
    if bias == "int32":
        values = g.rng.integers(-9000, 9000, OUT).astype(np.int32)
        inputs.append(dequantised(g, values, 0.02 * steps, 0))
    elif bias == "float":
        inputs.append(g.constant(g.normal(OUT)))
    attributes = {"transB": 1} if operator == "Gemm" else {}
    h = g.op(operator, inputs, channels=OUT, **attributes)
    return g.model(g.bn(h, signs=signs)), whole


def stored(model, dtype):
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    return [a for a in arrays if a.dtype == dtype]


# A Gemm whose int32 bias has one scale for all is that of a weight of one scale.
FORMS = [
    (operator, bias, per_axis)
    for operator, bias, per_axis in itertools.product(
        ["Conv", "Gemm"], [None, "float", "int32"], [True, False]
    )
    if (operator, bias, per_axis) != ("Gemm", "int32", False)
]


@pytest.mark.parametrize(("operator", "bias", "per_axis"), FORMS)
def test_the_scales_take_it_in(operator, bias, per_axis):
    model, whole = network(per_axis=per_axis, bias=bias, operator=operator)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0, report.nodes
    assert any(np.array_equal(a, whole) for a in stored(folded, np.int8))
    kinds = [node.op_type for node in folded.graph.node]
    assert kinds.count("DequantizeLinear") == (3 if bias == "int32" else 2)
    made = made_tensors(model, folded)
    assert any(a.dtype == np.int32 for a in made.values()) is (bias == "int32")
    assert report.verification.noticed == len(made), report.verification.unproven
    onnx.checker.check_model(folded, full_check=True)


def test_an_int32_bias_moves_by_whole_steps():
    model, _ = network(per_axis=True, bias="int32")
    folded, _ = fold_batch_norm(model)
    (before,), (after,) = stored(model, np.int32)[:1], stored(folded, np.int32)[:1]
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.parametrize(
    ("signs", "opset", "per_axis", "reason"),
    [
        ("mixed", 17, True, "should not be (allow_negative_scales folds)"),
        ("positive", 12, False, "of opset 13"),
    ],
)
def test_what_scales_cannot_be(signs, opset, per_axis, reason):
    model, _ = network(per_axis=per_axis, signs=signs, opset=opset)
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 1
    assert reason in report.nodes[0].reason
    assert folded.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize(("operator", "bias", "per_axis"), FORMS)
@pytest.mark.parametrize("signs", ["mixed", "negative"])
def test_negative_scales_where_they_are_allowed(operator, bias, per_axis, signs):
    model, whole = network(per_axis=per_axis, bias=bias, operator=operator, signs=signs)
    assert fold_batch_norm(model)[1].bn_left == 1
    folded, report = fold_batch_norm(model, allow_negative_scales=True)
    assert report.bn_left == 0, report.nodes
    assert any(np.array_equal(a, whole) for a in stored(folded, np.int8))
    assert min(a.min() for a in stored(folded, np.float32) if a.size == OUT) < 0
    assert report.verification.against == "float64"
    assert report.verification.agree
    onnx.checker.check_model(folded, full_check=True)


@pytest.mark.parametrize("per_axis", [True, False])
def test_a_scale_of_zero_stays(per_axis):
    model, _ = network(per_axis=per_axis, bias="int32")
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    gamma = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(gamma).copy()
    values[1] = 0
    gamma.CopyFrom(numpy_helper.from_array(values, gamma.name))
    _, report = fold_batch_norm(model, allow_negative_scales=True)
    assert report.bn_left == 1
    assert "zero" in report.nodes[0].reason


def test_parameters_behind_a_dequantisation_are_constants():
    g = Sketch(2, opset=17)
    h = g.conv(g.input(3, 8, 8), OUT)
    values = g.parameters(OUT)
    names = [h]
    for name, parameter in values.items():
        step = 0.01
        whole = np.clip(np.rint(parameter / step), -127, 127).astype(np.int8)
        values[name] = whole * step
        names.append(dequantised(g, whole, np.asarray(step)))
    model = g.model(g.op("BatchNormalization", names))
    folded, report = fold_batch_norm(model)
    assert report.bn_left == 0
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
