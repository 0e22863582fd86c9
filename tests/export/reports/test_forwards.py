"""Reports on BatchNorms in front of a convolution, behind activations, and in dense blocks."""

from __future__ import annotations

import pytest
from reported import kinds

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm

report = pytest.mark.report


@report("tenstorrent/tt-metal#1355", bn="1 → 0")
def test_a_convolution_behind(fold):
    g = Sketch(1355)
    folded, _ = fold(g.model(g.conv(g.bn(g.input(3, 9, 9)), 4, bias=True)))
    assert kinds(folded) == ["Conv"]


@report("SonySemiconductorSolutions/mct-model-optimization#698", bn="2 → 0")
def test_depthwise_and_grouped_convolutions_behind(fold):
    g = Sketch(698)
    h = g.relu(g.conv(g.bn(g.input(4, 10, 10), signs="mixed"), 4, group=4))
    h = g.op("LeakyRelu", [h], alpha=0.1)
    fold(g.model(g.conv(g.bn(h), 6, group=2)))


@report("NVIDIA/TensorRT#3104", bn="2 → 1")
def test_behind_a_residual_sum_and_in_front_of_padding(fold):
    g = Sketch(3104)
    x = g.input(4, 9, 9)
    h = g.relu(g.op("Add", [x, g.bn(g.conv(x, 4, pad=1))]))
    model = g.model(g.relu(g.conv(g.bn(h), 4, pad=1)))
    fold(model, reason="pads its input, which cuts the shift off at the border")


@report("Samsung/ONE#4773", bn="3 → 1")
def test_a_pre_activation_block(fold):
    g = Sketch(4773)
    x = g.conv(g.input(3, 10, 10), 4, pad=1)
    h = g.relu(g.bn(x))
    h = g.relu(g.bn(g.conv(h, 4, 1)))
    h = g.conv(g.relu(g.bn(g.conv(h, 4, pad=1))), 4, 1)
    model = g.model(g.op("Add", [x, h]))
    fold(model, reason="Add 'n_add_28' adds the value to another")
    assert fold_batch_norm(model, allow_slower=True)[1].bn_left == 0


@report("microsoft/onnxruntime#9938", bn="1 → 0")
def test_an_activation_between_and_a_convolution_behind(fold):
    g = Sketch(9938, opset=13)
    h = g.bn(g.relu(g.conv(g.input(3, 10, 10), 4, pad=1, bias=True)))
    folded, _ = fold(g.model(g.relu(g.conv(h, 5))))
    assert kinds(folded) == ["Conv", "Relu", "Conv", "Relu"]


@report("Tiramisu-Compiler/tiramisu#250", bn="2 → 1")
def test_batchnorm_relu_and_convolution_of_a_dense_block(fold):
    g = Sketch(250)
    x = g.relu(g.conv(g.input(3, 10, 10), 4))
    h = g.relu(g.bn(x))
    h = g.conv(g.relu(g.bn(g.conv(h, 8, 1))), 4, pad=1)
    model = g.model(g.op("Concat", [x, h], axis=1))
    fold(model, reason="has 2 consumers")
    assert fold_batch_norm(model, allow_slower=True)[1].bn_left == 0


@report("apache/tvm#17151", bn="1 → 0")
def test_squeeze_and_excitation(fold):
    g = Sketch(17151)
    h = g.op("HardSwish", [g.bn(g.conv(g.input(3, 9, 9), 8))])
    gate = g.op("GlobalAveragePool", [h])
    gate = g.op("HardSigmoid", [g.conv(g.relu(g.conv(gate, 4, 1, bias=True)), 8, 1, bias=True)])
    fold(g.model(g.conv(g.op("Mul", [h, gate]), 4, 1)))
