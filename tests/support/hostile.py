"""Files that ask for far more than their size justifies, each for one of the commands."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

OPSET = [helper.make_opsetid("", 18)]
Writer = Callable[[Path], list[str]]
FILES: dict[str, Writer] = {}


def hostile(function: Writer) -> Writer:
    """Register a function that writes into a folder and returns the command's arguments."""
    FILES[function.__name__] = function
    return function


def fold(folder: Path, model: onnx.ModelProto) -> list[str]:
    """Save a model and return the command that folds it."""
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    return ["fold", str(folder / "a.onnx"), "-o", str(folder / "out.onnx")]


def run(folder: Path, model: onnx.ModelProto) -> list[str]:
    """Save a model and return a command that runs it."""
    fold(folder, model)
    return ["validate", str(folder / "a.onnx")]


def model_of(
    nodes, inits=(), *, dims=("N", 4), rank=2, functions=(), opset=None
) -> onnx.ModelProto:
    """A model from x to y with a BatchNorm in front of the nodes, which go from h to y."""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    norm = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["h"])
    parameters = {"s": ones, "b": zeros, "m": zeros, "v": ones}
    graph = helper.make_graph(
        [norm, *nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("ABCD"[:rank]))],
        [*(numpy_helper.from_array(a, n) for n, a in parameters.items()), *inits],
    )
    return helper.make_model(graph, opset_imports=opset or OPSET, ir_version=8, functions=functions)


def constant(name: str, values: object, dtype: type = np.int64) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype), name)


@hostile
def nested_functions(folder: Path) -> list[str]:
    """Each calls the next one twice."""
    opset = [*OPSET, helper.make_opsetid("own", 1)]
    depth = 40
    functions = []
    for level in range(depth):
        last = level == depth - 1
        kind, domain = ("Relu", "") if last else (f"f{level + 1}", "own")
        nodes = [
            helper.make_node(kind, ["a"], ["b"], domain=domain),
            helper.make_node(kind, ["b"], ["c"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["c"], nodes, opset))
    call = helper.make_node("f0", ["h"], ["y"], domain="own")
    return fold(folder, model_of([call], functions=functions, opset=opset))


@hostile
def recursive_function(folder: Path) -> list[str]:
    opset = [*OPSET, helper.make_opsetid("own", 1)]
    nodes = [helper.make_node("f", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "f", ["a"], ["b"], nodes, opset)
    call = helper.make_node("f", ["h"], ["y"], domain="own")
    return fold(folder, model_of([call], functions=[function], opset=opset))


def loop_model(folder: Path, trips: int, condition: str = "Identity") -> list[str]:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node(condition, ["c"], ["c2"]),
            helper.make_node("Relu", ["a"], ["a2"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("c", TensorProto.BOOL, []),
            info("a", TensorProto.FLOAT, None),
        ],
        [info("c2", TensorProto.BOOL, []), info("a2", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("Loop", ["trips", "go", "h"], ["y"], body=body)
    inits = [constant("trips", trips), constant("go", True, np.bool_)]
    return run(folder, model_of([node], inits))


@hostile
def endless_loop(folder: Path) -> list[str]:
    return loop_model(folder, 2**62)


@hostile
def loop_whose_condition_is_computed(folder: Path) -> list[str]:
    """Its end cannot be known before it runs."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["a"], ["most"], keepdims=0),
            helper.make_node("Less", ["most", "limit"], ["c2"]),
            helper.make_node("Identity", ["a"], ["a2"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("c", TensorProto.BOOL, []),
            info("a", TensorProto.FLOAT, None),
        ],
        [info("c2", TensorProto.BOOL, []), info("a2", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("Loop", ["", "go", "h"], ["y"], body=body)
    inits = [constant("limit", np.inf, np.float32), constant("go", True, np.bool_)]
    return run(folder, model_of([node], inits))


@hostile
def expand(folder: Path) -> list[str]:
    """A value of the run, not a constant."""
    node = helper.make_node("Expand", ["h", "shape"], ["y"])
    return run(folder, model_of([node], [constant("shape", [2**16, 2**12, 1, 4])], rank=4))


@hostile
def many_large_constants(folder: Path) -> list[str]:
    nodes = []
    last = "h"
    for index in range(40):
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], [f"c{index}"]))
        nodes.append(helper.make_node("ReduceSum", [f"c{index}"], [f"r{index}"], keepdims=0))
        nodes.append(helper.make_node("Add", [last, f"r{index}"], [f"h{index}"]))
        last = f"h{index}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return run(folder, model_of(nodes, [constant("shape", [2**26])]))


@hostile
def doubled_by_concat(folder: Path) -> list[str]:
    nodes = []
    last = "h"
    for index in range(40):
        nodes.append(helper.make_node("Concat", [last, last], [f"h{index}"], axis=0))
        last = f"h{index}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return run(folder, model_of(nodes))


@hostile
def constants_doubled_by_concat(folder: Path) -> list[str]:
    nodes = []
    last = "one"
    for index in range(40):
        nodes.append(helper.make_node("Concat", [last, last], [f"k{index}"], axis=0))
        last = f"k{index}"
    nodes.append(helper.make_node("ReduceSum", [last], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["h", "sum"], ["y"]))
    return run(folder, model_of(nodes, [constant("one", [1.0], np.float32)]))


@hostile
def outer_sum_of_constants(folder: Path) -> list[str]:
    nodes = [
        helper.make_node("Range", ["zero", "many", "step"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "last"], ["column"]),
        helper.make_node("Add", ["row", "column"], ["table"]),
        helper.make_node("ReduceSum", ["table"], ["sum"], keepdims=0),
        helper.make_node("Add", ["h", "sum"], ["y"]),
    ]
    numbers = {"zero": 0.0, "many": 2.0**18, "step": 1.0}
    inits = [constant(name, value, np.float32) for name, value in numbers.items()]
    return run(folder, model_of(nodes, [*inits, constant("last", [1])]))


@hostile
def convolution_padded_without_end(folder: Path) -> list[str]:
    size = 2**15
    node = helper.make_node(
        "Conv", ["h", "w"], ["y"], kernel_shape=[1, 1], pads=[size, size, size, size]
    )
    weight = constant("w", np.ones((4, 4, 1, 1)), np.float32)
    return run(folder, model_of([node], [weight], dims=("N", 4, 3, 3), rank=4))


@hostile
def sparse_tensor_of_terabytes(folder: Path) -> list[str]:
    model = model_of([helper.make_node("MatMul", ["h", "w"], ["y"])])
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "w_indices")
    sparse = helper.make_sparse_tensor(values, indices, [4, 2**38])
    model.graph.sparse_initializer.append(sparse)
    return fold(folder, model)


@hostile
def npz_of_zeros(folder: Path) -> list[str]:
    arguments = fold(folder, model_of([helper.make_node("Relu", ["h"], ["y"])]))
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (16777216, 4), }"
        header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
        with archive.open("x.npy", "w", force_zip64=True) as stream:
            stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
            for _ in range(16):
                stream.write(bytes(1 << 24))
    return [*arguments, "--check-data", str(folder / "a.npz")]


@hostile
def npz_that_declares_a_terabyte(folder: Path) -> list[str]:
    arguments = fold(folder, model_of([helper.make_node("Relu", ["h"], ["y"])]))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return [*arguments, "--check-data", str(folder / "a.npz")]


def weights(folder: Path, metadata: object, **arrays: np.ndarray) -> list[str]:
    """Save a file as of fastbn and return the command that exports it."""
    arrays = arrays or {"0.weight": np.zeros((2, 2), np.float32)}
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file(arrays, folder / "a.safetensors", {"fastbn": text})
    return ["export", str(folder / "a.safetensors"), "-o", str(folder / "out.onnx")]


def mlp(**changes: object) -> dict[str, object]:
    """Metadata of a network that is larger than its file, or as the changes say."""
    arguments = {"input_shape": [8, 8, 1], "classes": 10, "hidden": [18000, 18000]}
    known = {"format_version": 1, "model": "mlp", "arguments": arguments, "input_shape": [8, 8, 1]}
    return known | changes


@hostile
def network_larger_than_its_file(folder: Path) -> list[str]:
    return weights(folder, mlp())


@hostile
def image_of_terabytes(folder: Path) -> list[str]:
    arguments = {"input_shape": [2**20, 2**20, 1], "classes": 10}
    return weights(folder, mlp(model="convnet", arguments=arguments))


@hostile
def metadata_nested_without_end(folder: Path) -> list[str]:
    return weights(folder, "[" * 100_000 + "]" * 100_000)


@hostile
def metadata_of_wrong_types(folder: Path) -> list[str]:
    return weights(folder, mlp(arguments={"input_shape": "8x8", "classes": None, "hidden": {}}))


@hostile
def classes_of_wrong_length(folder: Path) -> list[str]:
    from fastbn import models, train

    train.save(models.mlp((8, 8, 1), rng=0), folder / "a.safetensors", classes=["a", "b"])
    return ["export", str(folder / "a.safetensors"), "-o", str(folder / "out.onnx")]


@hostile
def idx_of_zeros(folder: Path) -> list[str]:
    data = folder / "data"
    data.mkdir()
    with gzip.open(data / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as stream:
        stream.write(struct.pack(">4I", 0x803, 1 << 20, 64, 64))
        for _ in range(256):
            stream.write(bytes(1 << 24))
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (data / f"{name}-ubyte").write_bytes(b"")
    return ["train", "mlp", "--data", str(data), "-o", str(folder / "run")]
