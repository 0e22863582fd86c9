"""BatchNorm after nodes that move, join, average or bend what a linear operator made."""

from __future__ import annotations

from typing import Any

import onnx

from fastbn.bench.patterns.registry import Drawing, pattern
from fastbn.bench.patterns.sketch import Sketch


def _behind(operator: str, signs: str = "mixed", **attributes: Any) -> Drawing:
    """Draw x → Conv → operator → BatchNorm."""

    def draw(g: Sketch) -> onnx.ModelProto:
        h = g.conv(g.input(3, 10, 10), 6, bias=True)
        return g.model(g.bn(g.op(operator, [h], **attributes), signs=signs))

    return draw


_POOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
_PADDED: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
pattern("conv-identity-bn", 0)(_behind("Identity"))
pattern("conv-dropout-bn", 0)(_behind("Dropout"))
pattern("conv-avgpool-bn", 0)(_behind("AveragePool", **_POOL))
pattern("conv-avgpool-padded-bn", 0)(_behind("AveragePool", **_PADDED))
pattern("conv-avgpool-counting-bn", 1)(_behind("AveragePool", count_include_pad=1, **_PADDED))
pattern("conv-gap-bn", 0)(_behind("GlobalAveragePool"))
pattern("conv-maxpool-bn", 0)(_behind("MaxPool", "positive", **_PADDED))
pattern("conv-maxpool-bn-mixed", 1)(_behind("MaxPool", "mixed", **_POOL))
pattern("conv-relu-bn", 1)(_behind("Relu", "positive"))
pattern("conv-relu-bn-mixed", 1)(_behind("Relu", "mixed"))
pattern("conv-relu-bn-negative", 1)(_behind("Relu", "negative"))
pattern("conv-leaky-relu-bn", 1)(_behind("LeakyRelu", "positive", alpha=0.1))
pattern("conv-sigmoid-bn", 1)(_behind("Sigmoid"))
pattern("conv-neg-bn", 0)(_behind("Neg"))


def _clipped(signs: str) -> Drawing:
    def draw(g: Sketch) -> onnx.ModelProto:
        h = g.conv(g.input(3, 10, 10), 6, bias=True)
        h = g.op("Clip", [h, g.constant(0.0), g.constant(6.0)])
        return g.model(g.bn(h, signs=signs))

    return draw


pattern("conv-relu6-bn", 1)(_clipped("positive"))
pattern("conv-relu6-bn-mixed", 1)(_clipped("mixed"))


@pattern("conv-reduce-mean-bn", 0)
def reduce_mean(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 6, 6), 4)
    return g.model(g.bn(g.op("ReduceMean", [h, g.integers(2, 3)]), signs="mixed"))


@pattern("conv-reduce-max-bn", 0)
def reduce_max(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 6, 6), 4)
    return g.model(g.bn(g.op("ReduceMax", [h, g.integers(-1)], keepdims=0)))


@pattern("conv-resize-bn", 0)
def resize(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 6, 6), 4)
    scales = g.constant([1, 1, 2, 2])
    g.nodes.append(
        onnx.helper.make_node("Resize", [h, "", scales], ["big"], name="resize", mode="nearest")
    )
    return g.model(g.bn("big", channels=4, signs="mixed"))


@pattern("conv-reflect-pad-bn", 0)
def reflect(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 6, 6), 4)
    pads = g.integers(0, 0, 1, 1, 0, 0, 1, 1)
    return g.model(g.bn(g.op("Pad", [h, pads], mode="reflect"), signs="mixed"))


@pattern("conv-zero-pad-bn", 1)
def zero_pad(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 6, 6), 4)
    pads = g.integers(0, 0, 1, 1, 0, 0, 1, 1)
    return g.model(g.bn(g.op("Pad", [h, pads], mode="constant"), signs="mixed"))


@pattern("conv-gap-flatten-bn", 0)
def gap_flatten(g: Sketch) -> onnx.ModelProto:
    h = g.op("GlobalAveragePool", [g.conv(g.input(3, 8, 8), 6)])
    return g.model(g.bn(g.op("Flatten", [h]), signs="mixed"))


@pattern("conv-gap-squeeze-bn", 0)
def gap_squeeze(g: Sketch) -> onnx.ModelProto:
    h = g.op("GlobalAveragePool", [g.conv(g.input(3, 8, 8), 6)])
    return g.model(g.bn(g.op("Squeeze", [h, g.integers(2, 3)]), signs="mixed"))


@pattern("conv-flatten-bn-per-channel", 0)
def flatten_repeated(g: Sketch) -> onnx.ModelProto:
    h = g.op("Flatten", [g.conv(g.input(3, 6, 6), 4)])
    return g.model(g.bn(h, channels=64, repeat=16, signs="mixed"))


@pattern("conv-flatten-bn-per-place", 1)
def flatten_places(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.op("Flatten", [g.conv(g.input(3, 6, 6), 4)]), channels=64))


@pattern("gemm-reshape-bn", 0)
def gemm_reshape(g: Sketch) -> onnx.ModelProto:
    h = g.gemm(g.input(7), 48, bias=g.normal(48))
    h = g.op("Reshape", [h, g.integers(-1, 3, 4, 4)], channels=3)
    return g.model(g.bn(h, signs="mixed"))


@pattern("conv-channel-shuffle-bn", 0)
def shuffle(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 6)
    h = g.op("Reshape", [h, g.integers(-1, 2, 3, 6, 6)])
    h = g.op("Transpose", [h], perm=[0, 2, 1, 3, 4])
    h = g.op("Reshape", [h, g.integers(-1, 6, 6, 6)], channels=6)
    return g.model(g.bn(h, signs="mixed"))


@pattern("conv-transpose-last-bn", 1)
def wrong_axis(g: Sketch) -> onnx.ModelProto:
    h = g.op("Transpose", [g.conv(g.input(3, 8, 8), 6)], perm=[0, 2, 3, 1], channels=6)
    return g.model(g.bn(h))


@pattern("concat-of-convs-bn", 0)
def concat(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    h = g.op("Concat", [g.conv(x, 4, 1), g.conv(x, 6, 1, bias=True)], channels=10, axis=1)
    return g.model(g.bn(h, signs="mixed"))


@pattern("concat-conv-input-bn", 1)
def concat_input(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    h = g.op("Concat", [g.conv(x, 4, 1), x], channels=7, axis=1)
    return g.model(g.bn(h))


@pattern("concat-conv-constant-bn", 0)
def concat_constant(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    pooled = g.op("GlobalAveragePool", [g.conv(x, 4, 1)])
    flat = g.op("Flatten", [pooled])
    h = g.op("Gemm", [flat, g.constant(g.normal(4, 5))], channels=5)
    return g.model(g.bn(g.op("Concat", [h, g.gemm(flat, 2)], channels=7, axis=1)))


@pattern("split-bn-bn", 0)
def split(g: Sketch) -> onnx.ModelProto:
    h = g.conv(g.input(3, 8, 8), 10)
    g.nodes.append(
        onnx.helper.make_node(
            "Split", [h, g.integers(4, 6)], ["left", "right"], name="split", axis=1
        )
    )
    return g.model(g.bn("left", channels=4, signs="mixed"), g.bn("right", channels=6))


@pattern("add-of-convs-bn", 0)
def add_convs(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    h = g.op("Add", [g.conv(x, 6, 3, pad=1), g.conv(x, 6, 1)])
    return g.model(g.relu(g.bn(h, signs="mixed")))


@pattern("sum-of-three-bn", 0)
def sum_convs(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    return g.model(g.bn(g.op("Sum", [g.conv(x, 6, 1), g.conv(x, 6, 1), g.conv(x, 6, 1)])))


@pattern("add-conv-input-bn", 0)
def add_input(g: Sketch) -> onnx.ModelProto:
    x = g.input(6, 8, 8)
    return g.model(g.bn(g.op("Add", [g.conv(x, 6, 1), x])))


@pattern("add-conv-other-input-bn", 1)
def add_other_input(g: Sketch) -> onnx.ModelProto:
    return g.model(g.bn(g.op("Add", [g.conv(g.input(6, 8, 8), 6, 1), g.input(6, 8, 8)])))


@pattern("repvgg-block", 0)
def repvgg_block(g: Sketch) -> onnx.ModelProto:
    x = g.input(6, 8, 8)
    wide, narrow = g.bn(g.conv(x, 6, 3, pad=1)), g.bn(g.conv(x, 6, 1))
    return g.model(g.relu(g.op("Add", [g.op("Add", [wide, narrow]), g.bn(x)])))


@pattern("mobileone-block", 0)
def mobileone_block(g: Sketch) -> onnx.ModelProto:
    x = g.input(6, 8, 8)
    branches = [g.bn(g.conv(x, 6, 3, pad=1, group=6)) for _ in range(2)]
    branches += [g.bn(g.conv(x, 6, 1, group=6)), g.bn(x)]
    return g.model(g.conv(g.relu(g.op("Sum", branches)), 4, 1))


@pattern("residual-bn-bn-add", 0)
def residual(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    body = g.bn(g.conv(g.relu(g.bn(g.conv(x, 6, 3, pad=1))), 6, 3, pad=1))
    return g.model(g.relu(g.op("Add", [body, g.bn(g.conv(x, 6, 1))])))


@pattern("gate-bn-conv", 0)
def gate(g: Sketch) -> onnx.ModelProto:
    x = g.input(3, 8, 8)
    h = g.op("Mul", [g.conv(x, 6, 1), g.op("Sigmoid", [g.conv(x, 6, 1)])])
    return g.model(g.conv(g.bn(h, signs="mixed"), 4, 3))


@pattern("squeeze-excite", 0)
def squeeze_excite(g: Sketch) -> onnx.ModelProto:
    h = g.bn(g.conv(g.input(3, 8, 8), 6))
    s = g.relu(g.conv(g.op("GlobalAveragePool", [h]), 2, 1))
    return g.model(g.op("Mul", [h, g.op("Sigmoid", [g.conv(s, 6, 1)])]))
