"""The light models that the onnx wheel ships, with weights as if they had been trained.

Their weights are constant-filled to keep the files small, which would hide any mix-up of channels.
:func:`filled` puts seeded random numbers of realistic scale in their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# The last one is DenseNet-121 as PyTorch writes it, without the Mul and Add after every BatchNorm
# that the shipped file has.
LIGHT = ("resnet50", "shufflenet", "inception_v2", "densenet121", "densenet121_plain")
PLAIN = "_plain"


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """Read one of the shipped models and fill it.

    Parameters
    ----------
    name : str
        One of ``LIGHT``.
    seed : int
    """
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = filled(onnx.load(folder / f"light_{name.removesuffix(PLAIN)}.onnx"), seed)
    return without_scale_nodes(model) if name.endswith(PLAIN) else model


def without_scale_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out the Mul and Add after every BatchNormalization, which has γ and β of its own."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    by_input = {name: node for node in graph.node for name in node.input}
    dropped = []
    for norm in graph.node:
        if norm.op_type != "BatchNormalization":
            continue
        mul = by_input[norm.output[0]]
        add = by_input[mul.output[0]]
        if (mul.op_type, add.op_type) == ("Mul", "Add"):
            norm.output[0] = add.output[0]
            dropped += [mul, add]
    for node in dropped:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    dead = [n for n in graph.node if not used & set(n.output) and n.op_type == "Unsqueeze"]
    for node in dead:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for field in (graph.initializer, graph.input):
        kept = [entry for entry in field if entry.name in used]
        del field[:]
        field.extend(kept)
    return result


def filled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Replace every constant-filled weight by random numbers that suit its use.

    ConstantOfShape nodes become initializers (in IR < 4 graph inputs too); a weight's scale
    depends on who reads it: convolutions and matrices He-scaled, variances around 1, one scale in
    ten negative.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    rng = np.random.default_rng(seed)
    readers = _readers(graph)
    known = {tensor.name: tensor for tensor in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    rest = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in known:
            dims = numpy_helper.to_array(known[node.input[0]])
            if (node.output[0]) in readers:
                shapes[node.output[0]] = tuple(int(d) for d in dims)
                continue
        rest.append(node)
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name in readers:
            shapes[tensor.name] = tuple(tensor.dims)
    used = {name for node in rest for name in node.input}
    kept = [t for t in graph.initializer if t.name in used and t.name not in shapes]
    new = [
        numpy_helper.from_array(_draw(rng, *readers[name], shape), name)
        for name, shape in shapes.items()
    ]
    weights = {tensor.name for tensor in (*kept, *new)}
    inputs = [v for v in graph.input if v.name not in known]
    if result.ir_version < 4:
        inputs += [
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in (*kept, *new)
        ]
    for field, values in (("node", rest), ("initializer", [*kept, *new]), ("input", inputs)):
        result.graph.ClearField(field)
        getattr(result.graph, field).extend(values)
    assert weights
    return result


def _readers(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Operator that reads a value, and at which input; seen through Unsqueeze."""
    readers: dict[str, tuple[str, int]] = {}
    for node in reversed(graph.node):
        for index, name in enumerate(node.input):
            if node.op_type == "Unsqueeze":
                readers[name] = readers.get(node.output[0], ("Unsqueeze", 0))
            elif node.op_type in ("Conv", "Gemm", "BatchNormalization", "Mul", "Add"):
                readers[name] = (node.op_type, index)
    return readers


def _draw(
    rng: np.random.Generator, operator: str, index: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    fan_in = max(int(np.prod(shape[1:])), 1)
    if operator == "Conv" and index == 1:
        values: NDArray[Any] = rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
    elif operator == "Gemm" and index == 1:
        values = rng.standard_normal(shape) * 0.01  # the logits stay small, Softmax informative
    elif operator == "BatchNormalization" and index == 1:
        values = rng.uniform(0.3, 0.9, shape)  # residual sums do not explode
        values *= np.where(rng.random(shape) < 0.1, -1.0, 1.0)
    elif (operator == "BatchNormalization" and index == 4) or operator == "Mul":
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.standard_normal(shape) * 0.2
    return np.asarray(values, dtype=np.float32)
