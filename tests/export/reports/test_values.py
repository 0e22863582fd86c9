"""Reports on numbers: half and double types, tiny variances, negative scales, integers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch

report = pytest.mark.report


@report("onnx/tensorflow-onnx#1106", "onnx/onnx#1106", bn="1 → 0")
def test_half_weights(fold):
    g = Sketch(1106, opset=13, dtype=np.float16)
    folded, _ = fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4))))
    assert {t.data_type for t in folded.graph.initializer} == {TensorProto.FLOAT16}


@report("pytorch/TensorRT#1450", bn="1 → 0")
def test_half_weights_are_worked_out_in_more_than_half(fold):
    """γ/√(σ² + ε) of half numbers would lose digits, or the ε."""
    g = Sketch(1450, opset=15, dtype=np.float16)
    given = g.parameters(8) | {"var": np.full(8, 1e-4), "scale": g.rng.uniform(0.01, 0.02, 8)}
    h = g.bn(g.conv(g.input(3, 8, 8), 8), given=given, epsilon=1e-5)
    fold(g.model(h))


def mixed(g, h, values):
    """A half BatchNorm whose parameters are float32, as opset 15 allows."""
    names = [g.constant(v, np.float32) for v in values.values()]
    return g.op("BatchNormalization", [h, *names])


@report("onnx/onnx#3545", bn="1 → 0")
def test_half_numbers_and_float_parameters(fold):
    g = Sketch(3545, opset=15, dtype=np.float16)
    h = g.conv(g.input(3, 8, 8), 4)
    fold(g.model(mixed(g, h, g.parameters(4))))


@report("apple/coreai-torch#54", bn="1 → 0")
def test_a_variance_that_half_numbers_cannot_hold(fold):
    g = Sketch(54, opset=15, dtype=np.float16)
    h = g.conv(g.input(3, 8, 8), 4)
    large = {"var": np.array([1e5, 4e5, 1.0, 1e6]), "scale": np.array([300.0, 500.0, 1.0, 900.0])}
    fold(g.model(mixed(g, h, g.parameters(4) | large)))


@report("microsoft/onnxruntime#2874", "microsoft/onnxruntime#2941", bn="1 → 0")
def test_double(fold):
    g = Sketch(2874, opset=11, dtype=np.float64)
    h = g.op("Reshape", [g.input(3, 6), g.integers(-1, 6)], channels=6)
    folded, _ = fold(g.model(g.bn(g.gemm(h, 4))), check_data={"x_1": g.normal(2, 3, 6)})
    assert {t.data_type for t in folded.graph.initializer} >= {TensorProto.DOUBLE}


def with_variance(values, **attributes):
    g = Sketch(303)
    given = g.parameters(len(values)) | {"var": np.asarray(values)}
    return g.model(g.bn(g.conv(g.input(3, 8, 8), len(values)), given=given, **attributes))


@report("Tencent/ncnn#303", bn="1 → 1")
def test_a_variance_of_zero_and_no_epsilon(fold):
    fold(with_variance([1.0, 0.0, 2.0], epsilon=0.0), reason="var + epsilon is not positive")


@report("tensorflow/tensorflow#18334", bn="1 → 1")
def test_a_negative_variance(fold):
    fold(with_variance([1.0, -0.5, 2.0]), reason="var + epsilon is not positive")


@report("onnx/tensorflow-onnx#1075", bn="1 → 0")
def test_a_variance_of_zero_and_an_epsilon(fold):
    fold(with_variance([0.0, 0.0, 0.0], epsilon=1e-3))


@report("LeelaChessZero/lc0#779", bn="2 → 0")
def test_gammas_that_are_negative_or_zero(fold):
    g = Sketch(779)
    gamma = np.array([-1.5, 0.0, 0.7, -0.2])
    h = g.bn(g.conv(g.input(3, 8, 8), 4, pad=1), given=g.parameters(4) | {"scale": gamma})
    h = g.conv(g.relu(h), 4, pad=1)
    fold(g.model(g.relu(g.bn(h, given=g.parameters(4) | {"scale": gamma}))))


def quantised(signs, *, per_axis=False, operator="Conv"):
    """Int8 numbers and weights, dequantised: what a quantiser writes."""
    g = Sketch(752, opset=13)
    step, zero = g.constant(0.02), g.constant(0, np.int8)
    x = g.input(*((3, 8, 8) if operator == "Conv" else (3,)))
    x = g.op("QuantizeLinear", [x, step, zero])
    x = g.op("DequantizeLinear", [x, step, zero])
    shape, axis = ((4, 3, 3, 3), 0) if operator == "Conv" else ((3, 4), 1)
    whole = g.rng.integers(-127, 128, shape).astype(np.int8)
    steps = g.rng.uniform(0.005, 0.02, 4) if per_axis else np.asarray(0.01)
    weight = [g.constant(whole, np.int8), g.constant(steps)]
    weight.append(g.constant(np.zeros(steps.shape), np.int8))
    node = helper.make_node("DequantizeLinear", weight, ["weight"], axis=axis if per_axis else 1)
    g.nodes.append(node)
    return g.model(g.relu(g.bn(g.op(operator, [x, "weight"], channels=4), signs=signs))), whole


@report("openvinotoolkit/nncf#752", bn="1 → 0")
def test_one_step_for_a_quantised_weight_becomes_one_for_each_channel(fold):
    model, whole = quantised("positive")
    folded, _ = fold(model)
    stored = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    node = next(n for n in folded.graph.node if "weight" in n.output)
    np.testing.assert_array_equal(stored[node.input[0]], whole)
    assert stored[node.input[1]].shape == (4,)


@report("qualcomm/aimet#3060", bn="1 → 0")
@pytest.mark.parametrize("signs", ["positive", "negative", "mixed"])
@pytest.mark.parametrize("operator", ["Conv", "Gemm", "MatMul"])
def test_into_the_steps_of_a_quantised_weight(fold, signs, operator):
    model, whole = quantised(signs, per_axis=True, operator=operator)
    folded, _ = fold(model, allow_negative_scales=signs != "positive")
    assert kinds(folded)[-2:] == ["Conv" if operator == "Conv" else "Gemm", "Relu"]
    stored = [numpy_helper.to_array(t) for t in folded.graph.initializer]
    assert any(np.array_equal(array, whole) for array in stored)
