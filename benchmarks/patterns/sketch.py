"""Drawing a small ONNX graph in a few lines, with seeded weights of realistic scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

OUTPUT = "y"


class Sketch:
    """A graph being drawn; every method that adds a node returns the name of its output.

    Parameters
    ----------
    seed : int
        Of all weights.
    opset, ir_version : int
        Written into the model.
    dtype : data-type
        float32 or float16, of inputs and weights.
    """

    def __init__(
        self, seed: int = 0, opset: int = 18, ir_version: int = 8, dtype: Any = np.float32
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.ir_version = ir_version
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0
        self.channels: dict[str, int] = {}

    def fresh(self, stem: str) -> str:
        """Make a name."""
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, *dims: int | str, name: str | None = None, dtype: Any = None) -> str:
        """Add a graph input; its batch axis is open: give only what follows."""
        name = name or self.fresh("x")
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, ["N", *dims]))
        if dims and isinstance(dims[0], int):
            self.channels[name] = dims[0]
        return name

    def constant(self, values: ArrayLike, dtype: Any = None, name: str | None = None) -> str:
        """Add an initializer."""
        name = name or self.fresh("w")
        array = np.asarray(values).astype(dtype or self.dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Add an int64 vector."""
        return self.constant(np.asarray(values), np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[np.float64]:
        """Draw normal numbers."""
        return self.rng.standard_normal(shape) * scale

    def op(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        channels: int | None = None,
        **attributes: Any,
    ) -> str:
        """Add any node with one output; the channel count is inherited unless given."""
        result = self.fresh(operator.lower())
        node = helper.make_node(operator, list(inputs), [result], name=f"n_{result}", **attributes)
        self.nodes.append(node)
        known = channels if channels is not None else self.channels.get(inputs[0])
        if known is not None:
            self.channels[result] = known
        return result

    def conv(
        self,
        x: str,
        out: int,
        kernel: int = 3,
        *,
        rank: int = 2,
        pad: int = 0,
        group: int = 1,
        bias: bool = False,
        **attributes: Any,
    ) -> str:
        """Conv with He-scaled weights."""
        c = self.channels[x]
        fan_in = c // group * kernel**rank
        weight = self.normal(out, c // group, *(kernel,) * rank, scale=(2.0 / fan_in) ** 0.5)
        inputs = [x, self.constant(weight)]
        if bias:
            inputs.append(self.constant(self.normal(out, scale=0.1)))
        if pad:
            attributes["pads"] = [pad] * (2 * rank)
        return self.op("Conv", inputs, channels=out, group=group, **attributes)

    def conv_transpose(
        self, x: str, out: int, kernel: int = 2, *, group: int = 1, rank: int = 2, **attributes: Any
    ) -> str:
        """ConvTranspose."""
        c = self.channels[x]
        weight = self.normal(c, out // group, *(kernel,) * rank, scale=(1.0 / c) ** 0.5)
        inputs = [x, self.constant(weight)]
        return self.op("ConvTranspose", inputs, channels=out, group=group, **attributes)

    def gemm(
        self,
        x: str,
        out: int,
        *,
        bias: ArrayLike | None = None,
        features: int | None = None,
        **attributes: Any,
    ) -> str:
        """Gemm with a constant B, transposed if ``transB``."""
        c = features or self.channels[x]
        weight = self.normal(c, out, scale=(1.0 / c) ** 0.5)
        if attributes.get("transB"):
            weight = weight.T
        inputs = [x, self.constant(weight)]
        if bias is not None:
            inputs.append(self.constant(bias))
        return self.op("Gemm", inputs, channels=out, **attributes)

    def matmul(self, x: str, out: int, *, features: int | None = None) -> str:
        """MatMul with a constant right factor."""
        c = features or self.channels[x]
        weight = self.constant(self.normal(c, out, scale=(1.0 / c) ** 0.5))
        return self.op("MatMul", [x, weight], channels=out)

    def parameters(self, channels: int, signs: str = "positive") -> dict[str, NDArray[np.float64]]:
        """Parameters of a trained-looking BatchNorm; ``signs`` of γ: positive, mixed, negative."""
        scale = self.rng.uniform(0.5, 1.5, channels)
        if signs == "mixed":
            scale *= np.where(np.arange(channels) % 2, -1.0, 1.0)
        elif signs == "negative":
            scale = -scale
        return {
            "scale": scale,
            "bias": self.normal(channels, scale=0.3),
            "mean": self.normal(channels, scale=0.5),
            "var": self.rng.uniform(0.5, 2.0, channels),
        }

    def bn(
        self,
        x: str,
        *,
        signs: str = "positive",
        channels: int | None = None,
        repeat: int = 1,
        given: dict[str, Any] | None = None,
        **attributes: Any,
    ) -> str:
        """BatchNormalization; ``repeat`` gives every channel's parameters so many times."""
        c = channels or self.channels[x]
        values = given or self.parameters(c // repeat, signs)
        inputs = [x, *(self.constant(np.repeat(v, repeat)) for v in values.values())]
        return self.op("BatchNormalization", inputs, channels=c, **attributes)

    def relu(self, x: str) -> str:
        """Relu."""
        return self.op("Relu", [x])

    def model(self, *outputs: str) -> onnx.ModelProto:
        """Close the graph; shapes of outputs are left to inference."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        inputs = list(self.inputs)
        if self.ir_version < 4:
            for tensor in self.weights:
                inputs.append(
                    helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        graph = helper.make_graph(self.nodes, "sketch", inputs, results, self.weights)
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=self.ir_version)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        return inferred
