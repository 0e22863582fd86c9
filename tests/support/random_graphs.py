"""Random graphs of the operations the folder knows, drawn from integers.

Every operation takes a value of any shape and returns None where it does not apply. Constants,
argument orders, signs and the values that are read a second time are drawn, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from fastbn.bench.patterns.sketch import Sketch


@dataclass(frozen=True)
class Value:
    name: str
    shape: tuple[int, ...]  # without the batch

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[1:]


Operation = Callable[["Drawer", Value], Value | None]
OPERATIONS: dict[str, Operation] = {}
SOURCES = ((4, 6, 6), (4,), (4, 6), (4, 1))


def operation(draw: Operation) -> Operation:
    OPERATIONS[draw.__name__] = draw
    return draw


class Drawer:
    """Collects values; draws constants, and which older value meets the newest."""

    def __init__(
        self,
        seed: int,
        dtype: str = "float64",
        opset: int = 18,
        source: tuple[int, ...] = SOURCES[0],
    ) -> None:
        self.g = Sketch(seed, opset=opset, dtype=dtype)
        self.rng = np.random.default_rng(seed + 1)
        self.values = [Value(self.g.input(*source), source)]
        self.outputs: list[str] = []

    # --- Drawing ---------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one_of(self, *options):
        return options[int(self.rng.integers(len(options)))]

    def order(self, *names: str) -> list[str]:
        """Arguments in either order."""
        return list(names) if self.chance(0.5) else list(reversed(names))

    def constant(self, v: Value, *, away_from_zero: bool = False) -> str:
        """A number, or one for every channel, position or element."""
        one = (1,) * len(v.spatial)
        shapes = [(v.channels, *one)] * 4 + [(1, v.channels, *one), (), v.shape, (1, *v.spatial)]
        values = self.g.normal(*self.one_of(*shapes))
        if away_from_zero:
            values = np.where(values < 0, -1.0, 1.0) * (0.4 + np.abs(values))
            if self.chance(0.5):
                values = np.abs(values)
        return self.g.constant(values)

    def partner(self, v: Value) -> Value:
        """Another value of that shape, the newest first; else the value itself."""
        found = [w for w in self.values if w.shape == v.shape and w.name != v.name]
        if not found:
            return v
        return found[-1] if self.chance(0.6) else self.one_of(*found)

    def op(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes) -> Value:
        return Value(self.g.op(operator, inputs, **attributes), shape)

    # --- Whole graphs ----------------------------------------------------------------------------

    def add(self, name: str, v: Value) -> Value | None:
        made = OPERATIONS[name](self, v)
        if made is not None:
            self.values.append(made)
        return made

    def run(self, choices: list[tuple[int, int]]) -> onnx.ModelProto:
        """Chains mostly, because that is what folding is about, and often a BatchNorm."""
        names = list(OPERATIONS)
        for which, operand in choices:
            name = "norm" if which % 4 == 0 else names[which // 4 % len(names)]
            v = self.values[-1] if operand % 4 else self.values[operand // 4 % len(self.values)]
            self.add(name, v)
        if not any(node.op_type == "BatchNormalization" for node in self.g.nodes):
            self.add("norm", self.values[-1])
        if choices[0][1] % 5 == 0:
            self.outputs.append(self.values[choices[0][0] % len(self.values)].name)
        return self.model(self.values[-1])

    def model(self, *last: Value) -> onnx.ModelProto:
        inputs = {value.name for value in self.g.inputs}
        names = dict.fromkeys(
            name for name in (*self.outputs, *(v.name for v in last)) if name not in inputs
        )
        return self.g.model(*names)


# --- BatchNorm and linear operators ---------------------------------------------------------------


@operation
def norm(d: Drawer, v: Value) -> Value:
    given = d.g.parameters(v.channels, d.one_of("positive", "positive", "mixed", "negative"))
    if d.chance(0.05):
        given["scale"][0] = 0.0
    if d.chance(0.15):
        given["bias"], given["mean"] = np.zeros(v.channels), np.zeros(v.channels)
    if d.chance(0.1):
        given = {key: np.full(v.channels, values[0]) for key, values in given.items()}
    return Value(d.g.bn(v.name, channels=v.channels, given=given), v.shape)


@operation
def sample_norm(d: Drawer, v: Value) -> Value | None:
    """A norm of single samples, often with a weight and a bias of its own."""
    if v.spatial and d.chance(0.5):
        parameters = [d.g.normal(v.channels), d.g.normal(v.channels)]
        operator, attributes = "InstanceNormalization", {}
    elif d.g.opset < 17:
        return None
    else:
        axis = d.one_of(-1, 1)
        shape = v.shape if axis == 1 else v.shape[-1:]
        if int(np.prod(shape)) < 2:
            return None
        parameters = [d.g.normal(*shape), d.g.normal(*shape)][: d.one_of(1, 2, 2)]
        operator, attributes = "LayerNormalization", {"axis": axis}
    if d.chance(0.2):
        parameters[1:] = [np.zeros_like(p) for p in parameters[1:]]
    names = [d.g.constant(p) for p in parameters]
    return d.op(operator, [v.name, *names], v.shape, epsilon=0.1, **attributes)


def _conv(d: Drawer, v: Value, kernel: int, out: int, **attributes) -> Value | None:
    if not v.spatial or len(v.spatial) > 2:
        return None
    group = 2 if v.channels % 2 == 0 and out % 2 == 0 and d.chance(0.3) else 1
    d.g.channels[v.name] = v.channels
    name = d.g.conv(
        v.name, out, kernel, rank=len(v.spatial), group=group, bias=d.chance(0.5), **attributes
    )
    return Value(name, (out, *v.spatial))


@operation
def conv_pointwise(d: Drawer, v: Value) -> Value | None:
    return _conv(d, v, 1, v.channels if d.chance(0.8) else 6)


@operation
def conv_padded(d: Drawer, v: Value) -> Value | None:
    rank = len(v.spatial)
    border = d.one_of({"pads": [1] * 2 * rank}, {"auto_pad": "SAME_UPPER"})
    return _conv(d, v, 3, v.channels if d.chance(0.8) else 6, **border)


@operation
def conv_valid(d: Drawer, v: Value) -> Value | None:
    if min(v.spatial, default=0) < 3:
        return None
    made = _conv(d, v, 3, 4)
    return made and Value(made.name, (4, *(n - 2 for n in v.spatial)))


@operation
def conv_strided(d: Drawer, v: Value) -> Value | None:
    """Few outputs: a bias map may pay."""
    if min(v.spatial, default=0) < 3:
        return None
    rank = len(v.spatial)
    made = _conv(d, v, 3, 2, pads=[1] * 2 * rank, strides=[3] * rank)
    return made and Value(made.name, (2, *((n - 1) // 3 + 1 for n in v.spatial)))


@operation
def conv_transpose(d: Drawer, v: Value) -> Value | None:
    if len(v.spatial) != 2 or v.spatial[0] > 6:
        return None
    group = 2 if v.channels % 2 == 0 and d.chance(0.3) else 1
    d.g.channels[v.name] = v.channels
    if d.chance(0.5):
        name = d.g.conv_transpose(v.name, 4, 3, pads=[1, 1, 1, 1], group=group)
        return Value(name, (4, *v.spatial))
    name = d.g.conv_transpose(v.name, 4, 2, strides=[2, 2], group=group)
    return Value(name, (4, *(2 * n for n in v.spatial)))


@operation
def gemm(d: Drawer, v: Value) -> Value | None:
    if v.spatial:
        return None
    bias = d.one_of(None, d.g.normal(4), d.g.normal(1, 4), d.g.normal(1))
    numbers = d.one_of({}, {"alpha": 0.5}, {"alpha": -2.0, "beta": 0.5}, {"beta": -1.0})
    name = d.g.gemm(v.name, 4, features=v.channels, bias=bias, transB=d.one_of(0, 1), **numbers)
    return Value(name, (4,))


@operation
def gemm_bias(d: Drawer, v: Value) -> Value | None:
    """A value in the place of C."""
    if v.spatial:
        return None
    weight = d.g.constant(d.g.normal(v.channels, v.channels))
    return d.op("Gemm", [d.partner(v).name, weight, v.name], v.shape, beta=d.one_of(1.0, -0.5))


@operation
def matmul(d: Drawer, v: Value) -> Value:
    weight = d.g.constant(d.g.normal(v.shape[-1], v.shape[-1]))
    return d.op("MatMul", [v.name, weight], v.shape)


@operation
def matmul_left(d: Drawer, v: Value) -> Value | None:
    if not v.spatial:
        return None
    weight = d.g.constant(d.g.normal(v.shape[-2], v.shape[-2]))
    return d.op("MatMul", [weight, v.name], v.shape)


# --- Elementwise ----------------------------------------------------------------------------------


def unary(operator: str, **attributes) -> None:
    def draw(d: Drawer, v: Value) -> Value:
        return d.op(operator, [v.name], v.shape, **attributes)

    OPERATIONS[operator.lower()] = draw


for _name in ("Relu", "Neg", "Abs", "Identity", "Dropout", "Sigmoid"):
    unary(_name)
unary("LeakyRelu", alpha=0.2)


@operation
def prelu(d: Drawer, v: Value) -> Value:
    slopes = d.g.constant(np.abs(d.g.normal(v.channels, *(1,) * len(v.spatial))))
    return d.op("PRelu", [v.name, slopes], v.shape)


@operation
def clip(d: Drawer, v: Value) -> Value:
    low, high = d.g.constant(-0.5), d.g.constant(1.5)
    return d.op("Clip", d.one_of([v.name, low, high], [v.name, low], [v.name, "", high]), v.shape)


def with_constant(operator: str) -> None:
    def draw(d: Drawer, v: Value) -> Value:
        constant = d.constant(v, away_from_zero=operator in ("Mul", "Div"))
        # A constant divided by a value would come near to infinity.
        inputs = [v.name, constant] if operator == "Div" else d.order(v.name, constant)
        return d.op(operator, inputs, v.shape)

    OPERATIONS[f"{operator.lower()}_constant"] = draw


def with_value(operator: str) -> None:
    def draw(d: Drawer, v: Value) -> Value:
        return d.op(operator, d.order(v.name, d.partner(v).name), v.shape)

    OPERATIONS[f"{operator.lower()}_value"] = draw


for _name in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
    with_constant(_name)
for _name in ("Add", "Sub", "Mul", "Max"):
    with_value(_name)


@operation
def sum_many(d: Drawer, v: Value) -> Value:
    names = [v.name, d.constant(v), d.partner(v).name]
    d.rng.shuffle(names)
    return d.op("Sum", names[: d.one_of(2, 3)] if v.name in names[:2] else names, v.shape)


# --- Pooling, borders, axes -----------------------------------------------------------------------


def _pool(d: Drawer, v: Value, operator: str, **attributes) -> Value | None:
    if min(v.spatial, default=0) < 3 or len(v.spatial) > 2:
        return None
    rank = len(v.spatial)
    pads = [d.one_of(0, 1)] * 2 * rank
    shape = (v.channels, *(n - 2 + 2 * pads[0] for n in v.spatial))
    return d.op(operator, [v.name], shape, kernel_shape=[3] * rank, pads=pads, **attributes)


@operation
def max_pool(d: Drawer, v: Value) -> Value | None:
    return _pool(d, v, "MaxPool")


@operation
def average_pool(d: Drawer, v: Value) -> Value | None:
    return _pool(d, v, "AveragePool", count_include_pad=d.one_of(0, 1))


@operation
def global_pool(d: Drawer, v: Value) -> Value | None:
    if not v.spatial:
        return None
    operator = d.one_of("GlobalAveragePool", "GlobalMaxPool")
    return d.op(operator, [v.name], (v.channels, *(1,) * len(v.spatial)))


@operation
def reduce(d: Drawer, v: Value) -> Value | None:
    if not v.spatial:
        return None
    operator, keep = d.one_of("ReduceMean", "ReduceMax", "ReduceMin"), d.one_of(0, 1)
    axes = list(range(2, len(v.shape) + 1))
    shape = (v.channels, *(1,) * len(v.spatial)) if keep else (v.channels,)
    if d.g.opset < 18:
        return d.op(operator, [v.name], shape, keepdims=keep, axes=axes)
    return d.op(operator, [v.name, d.g.integers(*axes)], shape, keepdims=keep)


@operation
def transpose(d: Drawer, v: Value) -> Value | None:
    if not v.spatial:
        return None
    order = list(d.rng.permutation(len(v.shape)))
    return d.op(
        "Transpose", [v.name], tuple(v.shape[i] for i in order), perm=[0, *(i + 1 for i in order)]
    )


@operation
def reshape(d: Drawer, v: Value) -> Value | None:
    shape: tuple[int, ...] = (*v.shape, 1, 1)[:3]
    if len(v.spatial) > 2:
        shape = (v.channels * v.spatial[0], *v.spatial[1:])
    elif len(v.spatial) == 2:
        shape = (v.channels, v.spatial[0] * v.spatial[1])
        if v.channels % 2 == 0 and d.chance(0.5):
            shape = (2, v.channels // 2, *v.spatial)
    return d.op("Reshape", [v.name, d.g.integers(d.one_of(0, -1), *shape)], shape)


@operation
def flatten(d: Drawer, v: Value) -> Value:
    return d.op("Flatten", [v.name], (int(np.prod(v.shape)),))


@operation
def unsqueeze(d: Drawer, v: Value) -> Value | None:
    if len(v.spatial) > 1:
        return None
    return d.op("Unsqueeze", [v.name, d.g.integers(-1)], (*v.shape, 1))


@operation
def squeeze(d: Drawer, v: Value) -> Value | None:
    if not v.spatial or v.shape[-1] != 1:
        return None
    return d.op("Squeeze", [v.name, d.g.integers(-1)], v.shape[:-1])


@operation
def resize(d: Drawer, v: Value) -> Value | None:
    if len(v.spatial) != 2 or v.spatial[0] > 6:
        return None
    scales = d.g.constant(np.array([1, 1, 2, 2]), np.float32)
    mode = d.one_of("nearest", "linear")
    shape = (v.channels, *(2 * n for n in v.spatial))
    return d.op("Resize", [v.name, "", scales], shape, mode=mode)


@operation
def slice_rows(d: Drawer, v: Value) -> Value | None:
    if not v.spatial or v.spatial[0] < 3:
        return None
    inputs = [v.name, d.g.integers(1), d.g.integers(v.spatial[0]), d.g.integers(2)]
    return d.op("Slice", inputs, (v.channels, v.spatial[0] - 1, *v.spatial[1:]))


@operation
def pad(d: Drawer, v: Value) -> Value | None:
    if not v.spatial or v.spatial[0] < 2:
        return None
    count = len(v.shape) + 1
    pads = [0] * 2 * count
    pads[2 + count] = 1
    mode = d.one_of("reflect", "edge", "constant")
    shape = (v.channels, v.spatial[0] + 1, *v.spatial[1:])
    return d.op("Pad", [v.name, d.g.integers(*pads)], shape, mode=mode)


@operation
def concat(d: Drawer, v: Value) -> Value:
    found = [w for w in d.values if w.spatial == v.spatial and w.name != v.name]
    other = found[-1] if found else v
    shape = (v.channels + other.channels, *v.spatial)
    return d.op("Concat", d.order(v.name, other.name), shape, axis=1)


@operation
def split(d: Drawer, v: Value) -> Value | None:
    if v.channels < 2:
        return None
    first = v.channels // 2
    names = [d.g.fresh("left"), d.g.fresh("right")]
    sizes = (first, v.channels - first)
    parts = [Value(name, (n, *v.spatial)) for name, n in zip(names, sizes, strict=True)]
    d.g.nodes.append(onnx.helper.make_node("Split", [v.name, d.g.integers(*sizes)], names, axis=1))
    kept = d.one_of(0, 1)
    d.values.append(parts[1 - kept])
    return parts[kept]


@operation
def depth_to_space(d: Drawer, v: Value) -> Value | None:
    if len(v.spatial) != 2 or v.channels % 4 or v.spatial[0] > 12:
        return None
    shape = (v.channels // 4, *(2 * n for n in v.spatial))
    return d.op("DepthToSpace", [v.name], shape, blocksize=2)


@operation
def space_to_depth(d: Drawer, v: Value) -> Value | None:
    if len(v.spatial) != 2 or v.spatial[0] % 2 or v.spatial[1] % 2:
        return None
    shape = (v.channels * 4, *(n // 2 for n in v.spatial))
    return d.op("SpaceToDepth", [v.name], shape, blocksize=2)
