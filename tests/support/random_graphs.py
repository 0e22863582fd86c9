"""Random graphs of the operations the folder knows, drawn from a list of integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from fastbn.export.patterns.sketch import Sketch


@dataclass(frozen=True)
class Value:
    name: str
    channels: int
    size: int | None  # height and width, None for a row of features


class Drawer:
    """Turns choices into nodes; every choice is valid, whatever the state."""

    def __init__(self, seed: int, dtype: str = "float64", opset: int = 18) -> None:
        self.g = Sketch(seed, opset=opset, dtype=dtype)
        self.rng = np.random.default_rng(seed + 1)
        x = self.g.input(4, 8, 8)
        self.values = [Value(x, 4, 8)]
        self.norms = 0

    def run(self, choices: list[tuple[int, int]]) -> onnx.ModelProto:
        for operation, operand in choices:
            self.step(operation, operand)
        if not self.norms:
            self.norm(self.values[-1])
        outputs = [self.values[-1].name]
        if choices and choices[0][1] % 5 == 0 and len(self.values) > 3:
            extra = self.values[choices[0][0] % (len(self.values) - 2) + 1].name
            if extra not in outputs:
                outputs.append(extra)
        return self.g.model(*outputs)

    def step(self, operation: int, operand: int) -> None:
        # The newest value is the likeliest: chains are what folding is about.
        v = self.values[-1] if operand % 4 else self.values[operand // 4 % len(self.values)]
        table: list[Callable[[Value], Value | None]] = [
            self.norm, self.norm, self.norm, self.conv, self.conv, self.conv_padded, self.relu,
            self.relu, self.clip, self.leaky, self.maxpool, self.avgpool, self.add, self.concat,
            self.scale, self.shift, self.head, self.transposed, self.residual, self.split,
            self.reshape, self.sigmoid, self.permute, self.sum_constant, self.branches,
            self.pooled, self.strided, self.two_norms, self.negated, self.sliced, self.resized,
            self.subtracted,
        ]  # fmt: skip
        made = table[operation % len(table)](v)
        if made is not None:
            self.values.append(made)

    def norm(self, v: Value) -> Value:
        self.norms += 1
        signs = ("positive", "mixed", "negative")[int(self.rng.integers(3))]
        given = self.g.parameters(v.channels, signs)
        if self.rng.random() < 0.1:
            given["scale"][0] = 0.0
        made = Value(self.g.bn(v.name, channels=v.channels, given=given), v.channels, v.size)
        self.values.append(made)
        return made

    def conv(self, v: Value) -> Value | None:
        if v.size is None:
            out = int(self.rng.integers(2, 6))
            bias = self.g.normal(out) if self.rng.random() < 0.5 else None
            name = self.g.gemm(v.name, out, features=v.channels, bias=bias, transB=1, alpha=0.5)
            return Value(name, out, None)
        kernel = 3 if v.size >= 3 and self.rng.random() < 0.5 else 1
        group = 2 if v.channels % 2 == 0 and self.rng.random() < 0.3 else 1
        self.g.channels[v.name] = v.channels
        bias = bool(self.rng.random() < 0.5)
        name = self.g.conv(v.name, 4, kernel, group=group, bias=bias)
        return Value(name, 4, v.size - kernel + 1)

    def conv_padded(self, v: Value) -> Value | None:
        if v.size is None:
            return Value(self.g.matmul(v.name, 3, features=v.channels), 3, None)
        self.g.channels[v.name] = v.channels
        return Value(self.g.conv(v.name, 6, 3, pad=1), 6, v.size)

    def transposed(self, v: Value) -> Value | None:
        if v.size is None or v.size > 6:
            return None
        self.g.channels[v.name] = v.channels
        return Value(self.g.conv_transpose(v.name, 4, 3, pads=[1, 1, 1, 1]), 4, v.size)

    def relu(self, v: Value) -> Value:
        return Value(self.g.relu(v.name), v.channels, v.size)

    def sigmoid(self, v: Value) -> Value | None:
        if self.rng.random() < 0.7:
            return None
        return Value(self.g.op("Sigmoid", [v.name]), v.channels, v.size)

    def clip(self, v: Value) -> Value:
        bounds = [self.g.constant(-0.5), self.g.constant(1.5)]
        return Value(self.g.op("Clip", [v.name, *bounds]), v.channels, v.size)

    def leaky(self, v: Value) -> Value:
        return Value(self.g.op("LeakyRelu", [v.name], alpha=0.2), v.channels, v.size)

    def maxpool(self, v: Value) -> Value | None:
        if v.size is None or v.size < 2:
            return None
        name = self.g.op("MaxPool", [v.name], kernel_shape=[2, 2], pads=[0, 0, 1, 1])
        return Value(name, v.channels, v.size)

    def avgpool(self, v: Value) -> Value | None:
        if v.size is None or v.size < 3:
            return None
        include = int(self.rng.integers(2))
        name = self.g.op(
            "AveragePool", [v.name], kernel_shape=[3, 3], pads=[1, 1, 1, 1],
            count_include_pad=include,
        )  # fmt: skip
        return Value(name, v.channels, v.size)

    def branches(self, v: Value) -> Value | None:
        """Two convolutions joined, with a BatchNorm behind that only both together can take in."""
        if v.size is None:
            return None
        self.g.channels[v.name] = v.channels
        left, right = self.g.conv(v.name, 4, 1), self.g.conv(v.name, 4, 3, pad=1, bias=True)
        if self.rng.random() < 0.4:
            left = self.g.relu(left)
        operator = ("Concat", "Sub", "Add", "Sum")[int(self.rng.integers(4))]
        if operator == "Concat":
            return self.norm(Value(self.g.op("Concat", [left, right], axis=1), 8, v.size))
        return self.norm(Value(self.g.op(operator, [left, right]), 4, v.size))

    def pooled(self, v: Value) -> Value | None:
        """A convolution, something that takes part of an affine, a BatchNorm, a convolution."""
        if v.size is None or v.size < 3:
            return None
        self.g.channels[v.name] = v.channels
        h = self.g.conv(v.name, 4, 3, pad=1)
        if self.rng.random() < 0.5:
            h = self.g.op("MaxPool", [h], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        else:
            h = self.g.op("LeakyRelu", [h], alpha=0.3)
        made = self.norm(Value(h, 4, v.size))
        self.g.channels[made.name] = 4
        pad = int(self.rng.integers(2))
        return Value(self.g.conv(made.name, 4, 3, pad=pad), 4, v.size - 2 + 2 * pad)

    def strided(self, v: Value) -> Value | None:
        """A BatchNorm in front of a padded convolution with few outputs: a bias map may pay."""
        if v.size is None or v.size < 4:
            return None
        made = self.norm(v)
        self.g.channels[made.name] = v.channels
        h = self.g.conv(made.name, 2, 3, pad=1, strides=[3, 3], bias=bool(self.rng.integers(2)))
        return Value(h, 2, (v.size - 1) // 3 + 1)

    def two_norms(self, v: Value) -> Value | None:
        """A convolution that two read: what one takes in, the other has to undo."""
        if v.size is None:
            return None
        self.g.channels[v.name] = v.channels
        shared = Value(self.g.conv(v.name, 4, 3, pad=1), 4, v.size)
        left = self.norm(shared)
        right = self.norm(shared) if self.rng.random() < 0.5 else shared
        self.g.channels[left.name] = self.g.channels[right.name] = 4
        names = [self.g.op("Sigmoid", [left.name])]
        names.append(self.g.conv(right.name, 4, 1))
        operator = "Mul" if self.rng.random() < 0.5 else "Add"
        return Value(self.g.op(operator, names), 4, v.size)

    def negated(self, v: Value) -> Value:
        return Value(self.g.op("Neg", [v.name]), v.channels, v.size)

    def sliced(self, v: Value) -> Value | None:
        if v.size is None or v.size < 3:
            return None
        inputs = [v.name, self.g.integers(1), self.g.integers(v.size), self.g.integers(3)]
        h = self.g.op("Slice", inputs)
        h = self.g.op("Pad", [h, self.g.integers(0, 0, 0, 1, 0, 0, 0, 0)], mode="reflect")
        return Value(h, v.channels, v.size)

    def resized(self, v: Value) -> Value | None:
        if v.size is None or v.size > 4:
            return None
        scales = self.g.constant(np.array([1, 1, 2, 2]), np.float32)
        return Value(self.g.op("Resize", [v.name, "", scales]), v.channels, 2 * v.size)

    def subtracted(self, v: Value) -> Value:
        constant = self.g.constant(self.g.normal(*((v.channels, 1, 1) if v.size else (1,))))
        return Value(self.g.op("Sub", [constant, v.name]), v.channels, v.size)

    def _partner(self, v: Value, *, same_channels: bool) -> Value:
        for other in reversed(self.values[:-1]):
            if other.size == v.size and (other.channels == v.channels or not same_channels):
                return other
        return v

    def add(self, v: Value) -> Value:
        other = self._partner(v, same_channels=True)
        operator = ("Add", "Sub", "Mul")[int(self.rng.integers(3))]
        return Value(self.g.op(operator, [v.name, other.name]), v.channels, v.size)

    def residual(self, v: Value) -> Value | None:
        if v.size is None:
            return None
        self.g.channels[v.name] = v.channels
        left = self.g.bn(self.g.conv(v.name, 4, 3, pad=1), channels=4)
        right = self.g.bn(self.g.conv(v.name, 4, 1), channels=4, signs="mixed")
        self.norms += 2
        return Value(self.g.op("Add", [left, right]), 4, v.size)

    def concat(self, v: Value) -> Value:
        other = self._partner(v, same_channels=False)
        name = self.g.op("Concat", [v.name, other.name], axis=1)
        return Value(name, v.channels + other.channels, v.size)

    def split(self, v: Value) -> Value | None:
        if v.channels < 2:
            return None
        first = v.channels // 2
        names = [self.g.fresh("left"), self.g.fresh("right")]
        sizes = self.g.integers(first, v.channels - first)
        self.g.nodes.append(onnx.helper.make_node("Split", [v.name, sizes], names, axis=1))
        self.values.append(Value(names[0], first, v.size))
        return Value(names[1], v.channels - first, v.size)

    def _constant(self, v: Value) -> str:
        per_channel = (v.channels,) if v.size is None else (v.channels, 1, 1)
        if self.rng.random() < 0.3:
            return self.g.constant(float(self.rng.uniform(0.5, 2.0)))
        return self.g.constant(self.g.normal(*per_channel) + 1.5)

    def scale(self, v: Value) -> Value:
        inputs = [v.name, self._constant(v)]
        return Value(
            self.g.op("Mul" if self.rng.random() < 0.6 else "Div", inputs), v.channels, v.size
        )

    def shift(self, v: Value) -> Value:
        inputs = [v.name, self._constant(v)]
        if self.rng.random() < 0.5:
            inputs.reverse()
        return Value(
            self.g.op("Add" if self.rng.random() < 0.5 else "Sub", inputs), v.channels, v.size
        )

    def sum_constant(self, v: Value) -> Value:
        return Value(self.g.op("Sum", [v.name, self._constant(v), v.name]), v.channels, v.size)

    def head(self, v: Value) -> Value | None:
        if v.size is None:
            return None
        if self.rng.random() < 0.5:
            name = self.g.op("Flatten", [self.g.op("GlobalAveragePool", [v.name])])
            return Value(name, v.channels, None)
        return Value(self.g.op("Flatten", [v.name]), v.channels * v.size**2, None)

    def reshape(self, v: Value) -> Value | None:
        if v.size is None or v.channels % 2:
            return None
        half = v.channels // 2
        h = self.g.op("Reshape", [v.name, self.g.integers(-1, 2, half, v.size, v.size)])
        h = self.g.op("Transpose", [h], perm=[0, 2, 1, 3, 4])
        h = self.g.op("Reshape", [h, self.g.integers(-1, v.channels, v.size, v.size)])
        return Value(h, v.channels, v.size)

    def permute(self, v: Value) -> Value | None:
        if v.size is None:
            return None
        return Value(self.g.op("Transpose", [v.name], perm=[0, 1, 3, 2]), v.channels, v.size)
