"""Reports on Conv → BatchNormalization."""

from __future__ import annotations

import numpy as np
import pytest
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch

report = pytest.mark.report


@report("onnx/optimizer#255", bn="1 → 0")
def test_rounding_is_that_of_one_weight(fold):
    g = Sketch(255, opset=17)
    h = g.relu(g.bn(g.conv(g.input(3, 12, 12), 8, pad=1, bias=True)))
    _, result = fold(g.model(h))
    assert result.max_abs_f64 < 1e-5


@report("ultralytics/yolov3#807", "microsoft/onnxconverter-common#58", bn="1 → 0")
def test_a_bias_in_front_is_scaled_with_the_weight(fold):
    g = Sketch(807)
    x = g.input(3, 8, 8)
    weight, bias = g.normal(4, 3, 3, 3), np.array([10.0, -20.0, 30.0, -40.0])
    h = g.op("Conv", [x, g.constant(weight), g.constant(bias)], channels=4)
    fold(g.model(g.bn(h)))


@report("jiazhihao/TASO#47", "tenstorrent/tt-metal#5317", bn="1 → 0")
def test_without_a_bias_the_shift_becomes_one(fold):
    g = Sketch(47)
    folded, _ = fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4))))
    assert len(folded.graph.node[0].input) == 3


@report("Tencent/ncnn#1339", bn="1 → 0")
def test_depthwise_with_a_bias(fold):
    g = Sketch(1339)
    fold(g.model(g.bn(g.conv(g.input(6, 8, 8), 6, group=6, pad=1, bias=True))))


@report("onnx/onnx#2677", "onnxsim/onnxsim#50", bn="3 → 0")
def test_an_inverted_residual(fold):
    g = Sketch(2677, opset=10)
    h = g.bn(g.conv(g.input(4, 10, 10), 12, 1))
    h = g.bn(g.conv(g.op("Clip", [h], min=0.0, max=6.0), 12, group=12, pad=1))
    h = g.bn(g.conv(g.op("Clip", [h], min=0.0, max=6.0), 4, 1))
    folded, _ = fold(g.model(h))
    assert kinds(folded) == ["Conv", "Clip"] * 2 + ["Conv"]


@report("intel/ipex-llm#2826", bn="1 → 0")
@pytest.mark.parametrize("group", [2, 3])
def test_groups(fold, group):
    g = Sketch(2826)
    fold(g.model(g.bn(g.conv(g.input(6, 8, 8), 12, group=group))))


@report("pytorch/pytorch#29113", bn="1 → 0")
@pytest.mark.parametrize("rank", [1, 3])
def test_one_and_three_dimensions(fold, rank):
    g = Sketch(29113)
    fold(g.model(g.bn(g.conv(g.input(3, *(8,) * rank), 4, rank=rank, bias=True))))


@report("pytorch/executorch#13696", bn="1 → 0")
def test_three_dimensions_padded_and_strided(fold):
    g = Sketch(13696)
    h = g.conv(g.input(2, 7, 8, 9), 5, rank=3, pad=1, strides=[2, 1, 2])
    fold(g.model(g.relu(g.bn(h))))


@report("microsoft/onnxruntime#11960", bn="1 → 0")
@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17, 21])
def test_every_version_of_the_operator(fold, opset):
    g = Sketch(11960, opset=opset)
    fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4))))


@report("pytorch/pytorch#45474", bn="1 → 0")
def test_without_weight_and_bias_of_its_own(fold):
    g = Sketch(45474)
    given = g.parameters(4) | {"scale": np.ones(4), "bias": np.zeros(4)}
    fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4), given=given)))


@report("pytorch/pytorch#141116", bn="1 → 0")
def test_it_is_the_last_node(fold):
    g = Sketch(141116)
    fold(g.model(g.bn(g.conv(g.input(16, 9, 9), 16, pad=1, bias=True))))


@report("apache/tvm#4739", bn="1 → 0")
def test_no_multiplication_and_no_second_addition_are_left(fold):
    g = Sketch(4739)
    folded, _ = fold(g.model(g.relu(g.bn(g.conv(g.input(3, 9, 9), 16, pad=1)))))
    assert kinds(folded) == ["Conv", "Relu"]


@report("NVIDIA/TensorRT#960", "onnx/onnx-tensorrt#594", bn="1 → 0")
def test_statistics_far_from_zero_and_one(fold):
    g = Sketch(960, opset=11)
    h = g.conv(g.input(3, 8, 8), 16)
    given = g.parameters(16, "mixed")
    given |= {"mean": g.normal(16, scale=50.0), "var": g.rng.uniform(1e-3, 500.0, 16)}
    fold(g.model(g.relu(g.bn(h, given=given))))


@report("robertknight/rten#1458", bn="1 → 1")
def test_a_scale_that_a_caller_gives_is_no_constant(fold):
    g = Sketch(1458)
    h = g.conv(g.input(3, 8, 8), 4)
    values = [g.constant(v) for v in g.parameters(4).values()]
    model = g.model(g.op("BatchNormalization", [h, "given", *values[1:]]))
    kind = model.graph.input.add(name="given").type.tensor_type
    kind.elem_type = 1
    kind.shape.dim.add(dim_value=4)
    fold(model, reason="its scale is not constant")


@report("pytorch/pytorch#40074", bn="1 → 0")
def test_momentum_says_nothing_about_inference(fold):
    g = Sketch(40074, opset=11)
    fold(g.model(g.bn(g.conv(g.input(3, 8, 8), 4), momentum=1.0)))


@report("apache/tvm#2093", bn="3 → 0")
def test_several_in_a_row(fold):
    g = Sketch(2093)
    h = g.input(3, 12, 12)
    for channels in (4, 5, 6):
        h = g.relu(g.bn(g.conv(h, channels, pad=1)))
    fold(g.model(h))


@report("onnx/tensorflow-onnx#2186", "onnx/tensorflow-onnx#2187", bn="2 → 0")
def test_a_convolution_behind_a_batchnorm_has_one_itself(fold):
    g = Sketch(2186, opset=13)
    h = g.bn(g.conv(g.input(3, 12, 12), 4, pad=1))
    folded, _ = fold(g.model(g.bn(g.conv(h, 5, pad=1))))
    assert kinds(folded) == ["Conv", "Conv"]


def padded(g, x, *pads, value=None):
    inputs = [x, g.integers(*pads)]
    return g.op("Pad", inputs if value is None else [*inputs, g.constant(value)])


@report("inisis/OnnxSlim#212", bn="1 → 0")
@pytest.mark.parametrize("value", [None, 0.0, 1.5])
def test_a_pad_in_front(fold, value):
    g = Sketch(212)
    h = padded(g, g.input(3, 8, 8), 0, 0, 1, 2, 0, 0, 2, 1, value=value)
    fold(g.model(g.bn(g.conv(h, 4, pad=1))))


@report("inisis/OnnxSlim#214", bn="1 → 0")
def test_a_pad_in_front_of_a_convolution_without_attributes(fold):
    g = Sketch(214)
    h = padded(g, g.input(3, 8, 8), 0, 0, 1, 1, 0, 0, 1, 1)
    weight = g.constant(g.normal(4, 3, 3, 3))
    fold(g.model(g.bn(g.op("Conv", [h, weight], channels=4))))


@report("inisis/OnnxSlim#21", bn="2 → 0")
def test_a_pad_that_two_convolutions_read(fold):
    g = Sketch(21)
    h = padded(g, g.input(3, 8, 8), 0, 0, 2, 2, 0, 0, 2, 2)
    fold(g.model(g.bn(g.conv(h, 4)), g.bn(g.conv(h, 4, 5))))


@report("microsoft/onnxscript#2838", bn="1 → 0")
def test_a_pad_that_crops(fold):
    g = Sketch(2838)
    h = padded(g, g.input(3, 9, 9), 0, 0, -1, 0, 0, 0, 0, -2)
    fold(g.model(g.bn(g.conv(h, 4))))
