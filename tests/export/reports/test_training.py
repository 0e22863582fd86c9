"""Reports on training mode, statistics per place, and versions that are too old."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import ModelError, fold_batch_norm

report = pytest.mark.report
OLD = "it is in training mode: it lists more than one output"
NEW = "it is in training mode"


def training(opset, *, extra=2, used=(), rank=2):
    """Conv and a BatchNorm that trains, with outputs besides the first."""
    g = Sketch(opset, opset=opset)
    h = g.bn(g.conv(g.input(3, *(9,) * rank), 4, rank=rank))
    more = [g.fresh("statistics") for _ in range(extra)]
    g.nodes[-1].output.extend(more)
    if opset >= 14:
        g.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    return g.model(g.relu(h), *(more[i] for i in used))


@report("microsoft/onnxruntime#16867", "microsoft/onnxscript#818", bn="1 → 1")
@pytest.mark.parametrize("opset", [14, 15, 18])
def test_training_mode_since_opset_14(fold, opset):
    fold(training(opset), reason=NEW)


@report("pytorch/pytorch#75252", "onnxsim/onnxsim#175", bn="1 → 1")
@pytest.mark.parametrize("opset", [9, 12])
def test_outputs_listed_mean_training_before_opset_14(fold, opset):
    fold(training(opset, extra=4), reason=OLD)


@report("onnx/onnx#1042", bn="1 → 1")
@pytest.mark.parametrize("opset", [7, 8])
def test_opset_7_has_no_attribute_for_it(fold, opset):
    fold(training(opset, extra=4), reason=OLD)


@report("microsoft/onnxruntime#2903", bn="1 → 1")
def test_a_statistic_is_an_output_of_the_graph(fold):
    fold(training(11, extra=4, used=(2,)), reason=OLD)


@report("pytorch/pytorch#49229", "pytorch/pytorch#52867", bn="2 → 1")
def test_a_frozen_one_beside_one_that_trains(fold):
    g = Sketch(49229, opset=14)
    h = g.relu(g.bn(g.conv(g.input(3, 9, 9), 4)))
    h = g.bn(g.conv(h, 5), training_mode=1)
    g.nodes[-1].output.extend(["running_mean", "running_var"])
    fold(g.model(h), reason=NEW)


@report("microsoft/onnxscript#1791", bn="1 → 1")
def test_training_mode_by_mistake_is_still_training_mode(fold):
    fold(training(17, extra=0), reason=NEW)


@report("microsoft/onnxscript#1591", bn="1 → 1")
def test_outputs_that_nobody_reads(fold):
    model = training(18)
    folded, _ = fold(model, reason=NEW)
    assert folded.SerializeToString() == model.SerializeToString()


@report("microsoft/onnxscript#1262", bn="1 → 1")
def test_an_instance_norm_written_as_a_training_batchnorm(fold):
    """(N, C, H, W) as (1, N·C, H, W): the statistics are those of one image's channel."""
    g = Sketch(1262, opset=17)
    h = g.op("Reshape", [g.input(4, 6, 6), g.integers(1, -1, 6, 6)])
    given = {"scale": np.ones(8), "bias": np.zeros(8), "mean": np.zeros(8), "var": np.ones(8)}
    h = g.bn(h, given=given, channels=8, training_mode=1)
    fold(g.model(g.op("Reshape", [h, g.integers(-1, 4, 6, 6)])), reason=NEW)


@report("onnx/onnx#4780", bn="1 → 1")
def test_nobody_says_that_it_may_be_inference(fold):
    fold(training(15, rank=1), reason=NEW)


@report("microsoft/onnxruntime#26584", bn="1 → 1")
def test_the_mode_changed_by_hand_is_another_function(fold):
    model = training(15)
    fold(model, reason=NEW)
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    del node.output[1:]
    node.attribute[-1].i = 0
    assert fold_batch_norm(model)[1].bn_left == 0


@report("openvinotoolkit/openvino#37170", "openvinotoolkit/openvino#20554", bn="1 → 1")
@pytest.mark.parametrize(("opset", "extra"), [(9, 4), (14, 0), (14, 2), (15, 2)])
def test_the_mode_is_told_by_each_version_in_its_way(fold, opset, extra):
    fold(training(opset, extra=extra), reason=NEW)


@report("pytorch/pytorch#45333", bn="refused")
def test_statistics_that_were_not_written():
    g = Sketch(45333, opset=12)
    h = g.conv(g.input(3, 8, 8), 4)
    values = [g.constant(v) for v in (np.ones(4), np.zeros(4))]
    model = g.model(g.op("BatchNormalization", [h, *values, "", ""]))
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        fold_batch_norm(model)


def per_place(opset, spatial):
    g = Sketch(opset, opset=opset)
    h = g.conv(g.input(3, 6, 6), 4)
    values = g.parameters(4)
    if not spatial:
        values = {k: np.broadcast_to(v[:, None, None], (4, 4, 4)) for k, v in values.items()}
    names = [g.constant(v) for v in values.values()]
    return g.model(g.op("BatchNormalization", [h, *names], spatial=spatial))


@report("apache/mxnet#16439", "onnx/onnx-tensorrt#149", bn="1 → 1")
@pytest.mark.parametrize("opset", [7, 8])
def test_statistics_per_place(fold, opset):
    fold(per_place(opset, 0), reason="spatial=0")


@report("apache/mxnet#17711", bn="1 → 0")
@pytest.mark.parametrize("opset", [7, 8])
def test_statistics_per_channel_said_in_so_many_words(fold, opset):
    fold(per_place(opset, 1))


@report("apache/mxnet#14589", "onnx/tutorials#227", bn="refused")
def test_an_attribute_that_opset_9_has_no_more():
    with pytest.raises(ModelError, match="Unrecognized attribute: spatial"):
        fold_batch_norm(per_place(9, 0))


@report("onnxsim/onnxsim#108", "microsoft/onnxruntime#775", bn="1 → 1")
def test_versions_that_no_runtime_has_any_more(fold):
    g = Sketch(108, opset=6)
    h = g.conv(g.input(3, 6, 6), 4)
    fold(g.model(g.bn(h, is_test=1)), reason="opset 6 is older than 7")
