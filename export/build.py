"""Build the ONNX model of a network, BatchNormalization included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from fastbn import __version__, nn
from fastbn.export.graph import GraphBuilder
from fastbn.export.lower import Lowering
from fastbn.nn.onnx import Flow
from fastbn.nn.state import shapes_of

INPUT, OUTPUT = "input", "output"  # with numbers appended where there are several
LAYOUTS = ("NCHW", "NHWC")
OLDEST_OPSET = 7
OLDEST_IR = 8
# Prediction and runtime compute the same sums in different orders: relative to max|f64|.
PREDICT_TOLERANCE = 1e-4

# Mean and standard deviation, one number or one for every channel.
Normalization = tuple[ArrayLike, ArrayLike]


@dataclass(slots=True)
class Wrapping:
    """What a file has around its network."""

    input_layout: str
    normalization: Normalization | None
    softmax: bool

    def file_input(self, x: NDArray[Any]) -> NDArray[Any]:
        """Bring raw samples, channels last, into the layout the file takes."""
        if self.input_layout == "NHWC" or x.ndim < 3:
            return x
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def net_outputs(
        self, net: nn.Module, xs: Sequence[NDArray[Any]], batch_size: int = 256
    ) -> list[NDArray[Any]]:
        """Predict raw samples as the file should: normalised before, with softmax after."""
        if self.normalization is not None:
            mean, std = (np.asarray(part, dtype=np.float32) for part in self.normalization)
            xs = [(x - mean) / std for x in xs]
        inputs = tuple(x.astype(net.dtype or x.dtype, copy=False) for x in xs)
        y = net.predict(inputs, batch_size)
        ys = list(y) if type(y) is tuple else [y]
        if self.softmax:
            exps = [np.exp(y - y.max(axis=-1, keepdims=True)) for y in ys]
            ys = [exp / exp.sum(axis=-1, keepdims=True) for exp in exps]
        return ys


@dataclass(slots=True)
class BuiltModel(Wrapping):
    """An unfolded model, the shape of a sample of every input, and what is to be noted."""

    proto: onnx.ModelProto
    shapes: tuple[tuple[int, ...], ...]
    notes: list[str]

    @property
    def input_shape(self) -> Any:
        """The shape of the one input, or a tuple of several."""
        return self.shapes[0] if len(self.shapes) == 1 else self.shapes

    def feed(self, xs: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what the file is given for raw samples, channels last, one array an input."""
        names = names_of(INPUT, len(self.shapes))
        return {name: self.file_input(x) for name, x in zip(names, xs, strict=True)}


def names_of(stem: str, count: int) -> list[str]:
    """Return the names of a file's inputs, or outputs."""
    return [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]


def build_model(
    net: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    input_layout: str = "NCHW",
    opset: int = 18,
    allow_untrained: bool = False,
    normalization: Normalization | None = None,
    softmax: bool = False,
) -> BuiltModel:
    """Build the ONNX model of a network as it stands, BatchNormalization included.

    Parameters and errors as :func:`to_onnx`.

    Examples
    --------
    >>> from fastbn import export, models
    >>> net = models.mlp((8, 8, 1), rng=0).eval()
    >>> built = export.build_model(net, allow_untrained=True)
    >>> [node.op_type for node in built.proto.graph.node]
    ['Flatten', 'Gemm', 'BatchNormalization', 'Relu', 'Gemm', 'BatchNormalization', 'Relu', 'Gemm']
    """
    shapes = _check_arguments(net, input_shape, input_layout, opset)
    if len(shapes) > 1 and normalization is not None:
        raise ValueError("normalization is for networks of one input")
    if not allow_untrained:
        _check_trained(net)
    net.output_shape(*shapes)
    build = GraphBuilder(opset)
    sources: list[ir.Value] = []
    flows: list[Flow] = []
    for name, shape in zip(names_of(INPUT, len(shapes)), shapes, strict=True):
        outer = shape if input_layout == "NHWC" else (shape[-1], *shape[:-1])
        source = value = build.input(name, ("N", *outer))
        if len(shape) > 1 and input_layout == "NHWC":
            rank = len(shape) + 1
            order = [0, rank - 1, *range(1, rank - 1)]
            value = build.node("Transpose", [value], "to_channels_first", {"perm": order})
        if normalization is not None:
            value = _normalize(build, value, shape, normalization)
        sources.append(source)
        flows.append(Flow(value, shape))
    lowering = Lowering(net, build)
    ends = lowering.layer(net, *flows)
    results: list[ir.Value] = []
    sizes: list[tuple[int | str, ...]] = []
    for end in ends if type(ends) is tuple else (ends,):
        flow = lowering.natural(end)
        result, inner = flow.value, flow.shape
        if softmax:
            if len(inner) > 1:
                build.require(13, "Softmax over the channels of an image")
            result = build.node("Softmax", [result], "softmax", {"axis": 1})
        outer = inner if input_layout == "NHWC" else (inner[-1], *inner[:-1])
        if len(inner) > 1 and input_layout == "NHWC":
            rank = len(inner) + 1
            order = [0, *range(2, rank), 1]
            result = build.node("Transpose", [result], "to_channels_last", {"perm": order})
        results.append(result)
        sizes.append(("N", *outer))
    names = names_of(OUTPUT, len(results))
    graph = build.finish(sources, results, names, sizes, type(net).__name__)
    version = max(OLDEST_IR, _ir_version(build.opset))
    model = ir.Model(
        graph, ir_version=version, producer_name="fastbn", producer_version=__version__
    )
    return BuiltModel(
        input_layout, normalization, softmax, ir.to_proto(model), shapes, build.notices
    )


def _normalize(
    build: GraphBuilder, value: ir.Value, shape: tuple[int, ...], normalization: Normalization
) -> ir.Value:
    """Subtract the mean and divide by the standard deviation, channel by channel.

    The division is a BatchNormalization, for that can be folded: into the first convolution, in
    front of whose padding only the subtraction has to stay.
    """
    channels = shape[-1]
    mean, std = (
        np.broadcast_to(np.asarray(part, dtype=np.float64), (channels,)) for part in normalization
    )
    if not (std > 0).all() or not np.isfinite([mean, std]).all():
        raise ValueError("normalization should be a finite mean and a positive standard deviation")
    spatial = (1,) * (len(shape) - 1)
    subtrahend = build.weight("normalize.mean", mean.reshape(channels, *spatial))
    value = build.node("Sub", [value, subtrahend], "normalize.subtract")
    parameters = [1.0 / std, np.zeros(channels), np.zeros(channels), np.ones(channels)]
    names = ("scale", "bias", "zero_mean", "one_var")
    weights = [
        build.weight(f"normalize.{name}", values)
        for name, values in zip(names, parameters, strict=True)
    ]
    return build.node("BatchNormalization", [value, *weights], "normalize", {"epsilon": 0.0})


def _ir_version(opset: int) -> int:
    operator_set = onnx.helper.make_opsetid("", opset)
    return int(onnx.helper.find_min_ir_version_for([operator_set], ignore_unknown=True))


def _check_arguments(
    net: nn.Module, input_shape: Sequence[int] | None, input_layout: str, opset: int
) -> tuple[tuple[int, ...], ...]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net should be a Module, got {type(net).__name__}")
    if input_layout not in LAYOUTS:
        raise ValueError(f"input_layout should be one of {LAYOUTS}, got {input_layout!r}")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"opset should be from {OLDEST_OPSET} to {newest}, got {opset}")
    shape = net.input_shape if input_shape is None else tuple(input_shape)
    if shape is None:
        raise ValueError(
            "the input shape is unknown: give input_shape, or call the network once before"
        )
    shapes = tuple(tuple(int(n) for n in each) for each in shapes_of(shape))
    if not all(each and min(each) >= 1 for each in shapes):
        raise ValueError(f"input_shape should hold positive sizes, got {shape}")
    return shapes


def _check_trained(net: nn.Module) -> None:
    """Refuse a network whose running statistics are still what they were initialised to."""
    for name, layer in net.named_modules():
        if not isinstance(layer, nn.BatchNorm):
            continue
        mean, var = layer.running_mean, layer.running_var
        if mean is None or var is None or int(layer.num_batches_tracked or 0):
            continue
        if not mean.any() and (var == 1.0).all():  # files of other tools may count nothing
            raise ValueError(
                f"BatchNorm {name!r}: running statistics were never updated "
                "(num_batches_tracked is 0); train the network first, load trained weights, "
                "or give allow_untrained=True"
            )
