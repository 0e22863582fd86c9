"""Graphs in which one rule of the folder has to do its part: the affine must pass this node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from fastbn.bench.patterns.sketch import Sketch

Build = Callable[[Sketch, str], str]
# Where a node changes the rank, what comes out of it.
RANKS = {"Squeeze": 2, "Unsqueeze": 3}
GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {}


def middle(
    name: str,
    build: Build,
    *,
    behind: bool = True,
    ahead: bool = True,
    parameters: str = "any",
    shape: tuple[int, ...] = (4, 8, 8),
    opset: int = 18,
) -> None:
    """Register ``linear → build → BatchNorm`` and ``BatchNorm → build → linear``.

    ``parameters`` says what the node lets through: any, positive, scale (positive, no shift) or
    one (the same in all channels).
    """

    changed: set[str] = set()  # names of values that went through the node

    def norm(g: Sketch, x: str) -> str:
        channels = g.channels[x]
        signs = "mixed" if parameters == "any" else "positive"
        values = g.parameters(channels, signs)
        if parameters == "scale":
            values["bias"], values["mean"] = np.zeros(channels), np.zeros(channels)
        if parameters == "one":
            values = {key: np.full(channels, v[0]) for key, v in values.items()}
        return g.bn(x, given=values)

    def linear(g: Sketch, x: str) -> str:
        rank = RANKS.get(name) if x in changed else None
        rank = rank or len(shape) + 1
        if rank == 2:
            return g.gemm(x, 4, bias=g.normal(4))
        return g.conv(x, 4, 1, rank=rank - 2, bias=True)

    def draw_behind() -> onnx.ModelProto:
        g = Sketch(0, opset=opset)
        return g.model(norm(g, build(g, linear(g, g.input(*shape)))))

    def draw_ahead() -> onnx.ModelProto:
        g = Sketch(0, opset=opset)
        h = build(g, norm(g, g.input(*shape)))
        changed.add(h)
        return g.model(linear(g, h))

    if behind:
        GRAPHS[f"linear, {name}, norm"] = draw_behind
    if ahead:
        GRAPHS[f"norm, {name}, linear"] = draw_ahead


def unary(operator: str, **attributes: object) -> Build:
    return lambda g, x: g.op(operator, [x], **attributes)


def with_constant(operator: str, *, first: bool = False, behind_pool: bool = True) -> Build:
    """A constant per channel; behind a pooling, it is not taken as part of the BatchNorm."""

    def build(g: Sketch, x: str) -> str:
        constant = g.constant(g.normal(4, 1, 1) + 2.0)
        if behind_pool:
            x = g.op("AveragePool", [x], kernel_shape=[2, 2])
        h = g.op(operator, [constant, x] if first else [x, constant], channels=4)
        return g.op("AveragePool", [h], kernel_shape=[2, 2]) if behind_pool else h

    return build


def with_vector(operator: str, *values: int, **attributes: object) -> Build:
    return lambda g, x: g.op(operator, [x, g.integers(*values)], **attributes)


def resized(g: Sketch, x: str) -> str:
    scales = g.constant(np.array([1, 1, 2, 2]), np.float32)
    return g.op("Resize", [x, "", scales], mode="nearest")


def upsampled(g: Sketch, x: str) -> str:
    return g.op("Upsample", [x, g.constant(np.array([1, 1, 2, 2]), np.float32)], mode="nearest")


def sliced(g: Sketch, x: str) -> str:
    return g.op("Slice", [x, g.integers(1), g.integers(6), g.integers(2)])


def concatenated(g: Sketch, x: str) -> str:
    return g.op("Concat", [x, g.input(4, 8, 8)], channels=8, axis=1)


def prelu(g: Sketch, x: str) -> str:
    return g.op("PRelu", [x, g.constant(np.full((4, 1, 1), 0.2))])


def to_space(g: Sketch, x: str) -> str:
    return g.op("DepthToSpace", [x], channels=1, blocksize=2)


def to_depth(g: Sketch, x: str) -> str:
    return g.op("SpaceToDepth", [x], channels=16, blocksize=2)


def quantised_weight() -> onnx.ModelProto:
    g = Sketch(0)
    x = g.input(3, 6, 6)
    whole = g.constant(g.rng.integers(-127, 128, (4, 3, 3, 3)), np.int8)
    steps = g.constant(g.rng.uniform(0.005, 0.02, 4))
    weight = g.op("DequantizeLinear", [whole, steps], axis=0)
    bias = g.constant(g.rng.integers(-(10**6), 10**6, 4), np.int32)
    bias = g.op("DequantizeLinear", [bias, g.constant(np.full(4, 1e-6))], axis=0)
    return g.model(g.bn(g.op("Conv", [x, weight, bias], channels=4)))


GRAPHS["quantised linear, norm"] = quantised_weight
for name in ("Identity", "Dropout", "Neg"):
    middle(name, unary(name))
for name in ("LeakyRelu", "Abs"):
    middle(name, unary(name), parameters="scale")
middle("PRelu", prelu, parameters="scale")
middle("Relu", unary("Relu"), parameters="any")
for name in ("Max", "Min"):
    middle(name, with_constant(name, behind_pool=False))
middle("Clip", lambda g, x: g.op("Clip", [x, g.constant(-0.5), g.constant(0.5)]))
for name in ("Add", "Sub", "Mul", "Div"):
    middle(name, with_constant(name))
middle("Sub from a constant", with_constant("Sub", first=True))
middle("Sum", with_constant("Sum", behind_pool=False))
middle("MaxPool", unary("MaxPool", kernel_shape=[2, 2]), parameters="positive")
middle("AveragePool", unary("AveragePool", kernel_shape=[2, 2]))
middle("GlobalMaxPool", unary("GlobalMaxPool"), parameters="positive")
middle("GlobalAveragePool", unary("GlobalAveragePool"))
middle("ReduceMean", with_vector("ReduceMean", 2, 3))
for name in ("ReduceMax", "ReduceMin"):
    middle(name, with_vector(name, 2, 3), parameters="positive")
middle("Transpose", unary("Transpose", perm=[0, 1, 3, 2]))
middle("Reshape", with_vector("Reshape", 0, 4, 4, 16))
middle("Flatten", unary("Flatten", axis=1), shape=(4,))
middle("Squeeze", with_vector("Squeeze", 2, 3), shape=(4, 1, 1))
middle("Unsqueeze", with_vector("Unsqueeze", 2), shape=(4,))
middle("Resize", resized)
middle("Upsample", upsampled, opset=9)
middle("Slice", sliced)
middle("Pad", lambda g, x: g.op("Pad", [x, g.integers(0, 0, 1, 1, 0, 0, 1, 1)], mode="reflect"))
middle(
    "Pad of axes",
    lambda g, x: g.op("Pad", [x, g.integers(1, 2), "", g.integers(-1)], mode="edge"),
)
middle("Concat", concatenated, behind=False)
middle("DepthToSpace", to_space, parameters="one")
middle("SpaceToDepth", to_depth, parameters="one")
