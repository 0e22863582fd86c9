"""Reports on ConvTranspose → BatchNormalization."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch

report = pytest.mark.report


@report("onnx/optimizer#106", "onnxsim/onnxsim#317", "inisis/OnnxSlim#261", bn="1 → 0")
def test_other_channels_go_in_than_come_out(fold):
    g = Sketch(106, opset=11)
    folded, _ = fold(g.model(g.bn(g.conv_transpose(g.input(5, 6, 6), 3, strides=[2, 2]))))
    assert kinds(folded) == ["ConvTranspose"]


@report("ultralytics/ultralytics#25364", bn="1 → 0")
def test_as_many_channels_go_in_as_come_out(fold):
    g = Sketch(25364)
    fold(g.model(g.bn(g.conv_transpose(g.input(4, 6, 6), 4, 3))))


@report("pytorch/pytorch#70022", "pytorch/pytorch#69797", bn="1 → 0")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_in_every_dimension(fold, rank):
    g = Sketch(70022)
    fold(g.model(g.bn(g.conv_transpose(g.input(3, *(5,) * rank), 4, rank=rank))))


@report("qualcomm/aimet#1896", bn="1 → 0")
def test_one_dimension_strided(fold):
    g = Sketch(1896)
    h = g.conv_transpose(g.input(3, 9), 4, 4, rank=1, strides=[2], pads=[1, 1])
    fold(g.model(g.relu(g.bn(h))))


@report("onnxsim/onnxsim#228", "onnx/optimizer#47", bn="1 → 0")
def test_with_a_bias(fold):
    g = Sketch(228)
    x = g.input(3, 5, 5)
    inputs = [x, g.constant(g.normal(3, 4, 2, 2)), g.constant(g.normal(4, scale=3.0))]
    fold(g.model(g.bn(g.op("ConvTranspose", inputs, channels=4))))


@report("onnxsim/onnxsim#256", bn="1 → 0")
def test_with_an_addition_behind(fold):
    g = Sketch(256)
    h = g.bn(g.conv_transpose(g.input(3, 5, 5), 4))
    h = g.op("Add", [h, g.constant(g.normal(1, 4, 1, 1))])
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["ConvTranspose"]


@report("onnx/optimizer#316", "pytorch/pytorch#180995", "pytorch/pytorch#184076", bn="1 → 0")
@pytest.mark.parametrize("group", [2, 4])
def test_groups(fold, group):
    g = Sketch(316)
    h = g.conv_transpose(g.input(8, 5, 5), 12, 3, group=group, strides=[2, 2], pads=[1] * 4)
    fold(g.model(g.bn(h)))


@report("microsoft/onnxscript#2867", bn="1 → 0")
def test_groups_and_a_kernel_of_one_row(fold):
    g = Sketch(2867)
    inputs = [g.input(16, 3, 6), g.constant(g.normal(16, 8, 1, 5, scale=0.3))]
    h = g.op("ConvTranspose", inputs, channels=16, group=2, strides=[1, 2])
    fold(g.model(g.bn(h)))


@report("pytorch/executorch#22517", bn="1 → 0")
def test_groups_with_a_bias_and_no_affine(fold):
    g = Sketch(22517)
    inputs = [g.input(4, 5, 5), g.constant(g.normal(4, 3, 3, 3)), g.constant(g.normal(6))]
    h = g.op("ConvTranspose", inputs, channels=6, group=2)
    given = g.parameters(6) | {"scale": np.ones(6), "bias": np.zeros(6)}
    fold(g.model(g.bn(h, given=given)))


@report("openvinotoolkit/openvino#23390", "openvinotoolkit/openvino#22343", bn="1 → 0")
def test_depthwise(fold):
    g = Sketch(23390)
    h = g.conv_transpose(g.input(6, 5, 5), 6, 4, group=6, strides=[2, 2], pads=[1] * 4)
    fold(g.model(g.bn(h)))


@report("NVIDIA/TensorRT#1699", bn="1 → 0")
def test_padding_of_the_output(fold):
    g = Sketch(1699)
    h = g.conv_transpose(
        g.input(5, 5, 6), 3, 3, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
    )
    fold(g.model(g.relu(g.bn(h))))


def dequantised(g, whole, steps, axis):
    """Integers as a value: q·d along an axis."""
    steps = np.asarray(steps)
    inputs = [g.constant(whole, np.int8), g.constant(steps)]
    inputs.append(g.constant(np.zeros(steps.shape), np.int8))
    result = g.fresh("wide")
    attributes = {"axis": axis} if steps.ndim else {}
    g.nodes.append(helper.make_node("DequantizeLinear", inputs, [result], **attributes))
    return result


@report("microsoft/onnxruntime#14270", bn="1 → 0")
def test_before_it_is_quantised(fold):
    g = Sketch(14270, opset=13)
    fold(g.model(g.relu(g.bn(g.conv_transpose(g.input(4, 6, 6), 4, strides=[2, 2])))))


@report("NVIDIA/TensorRT#3412", bn="1 → 0")
@pytest.mark.parametrize("per_axis", [True, False])
@pytest.mark.parametrize("group", [1, 4])
def test_a_quantised_weight(fold, per_axis, group):
    g = Sketch(3412, opset=13)
    step, zero = g.constant(0.03), g.constant(0, np.int8)
    x = g.op("QuantizeLinear", [g.input(4, 6, 6), step, zero])
    x = g.op("DequantizeLinear", [x, step, zero])
    whole = g.rng.integers(-127, 128, (4, 4 // group, 2, 2)).astype(np.int8)
    length = 1 if not per_axis else 4
    steps = g.rng.uniform(0.005, 0.02, length)
    weight = dequantised(g, whole, steps if per_axis else steps[0], 1 if group == 1 else 0)
    h = g.op("ConvTranspose", [x, weight], channels=4, group=group, strides=[2, 2])
    folded, _ = fold(g.model(g.relu(g.bn(h))))
    stored = [numpy_helper.to_array(t) for t in folded.graph.initializer]
    assert any(np.array_equal(array, whole) for array in stored)
