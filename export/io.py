"""Reading models that may be broken or hostile, writing models so that no half file is ever seen.

Reading checks what protobuf does not: that every tensor holds as many bytes as its shape says,
that external data lies in the model's own folder, and that the graph is a valid ONNX graph.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper

from fastbn import budgets
from fastbn.export.demands import require_nodes
from fastbn.export.errors import ModelError, one_line
from fastbn.export.repair import repaired, short_domain, typed
from fastbn.export.sparse import dense
from fastbn.files import atomic, require_file

Source = str | os.PathLike[str] | onnx.ModelProto

# protobuf refuses messages of 2 GiB; what the graph itself takes is left as a margin.
PROTOBUF_LIMIT = 2**31 - 2**24


def read_model(source: Source, *, load_external_data: bool = True) -> onnx.ModelProto:
    """Read and check a model.

    Parameters
    ----------
    source : path or onnx.ModelProto
        A file, or a model in memory (which is checked, and returned as it is). Sparse tensors
        are made dense, nodes brought into order, outputs given a type and the domain "ai.onnx"
        is called "", in a copy.
    load_external_data : bool
        Whether to bring the data of external tensors into memory. They are checked anyway.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not ONNX, not valid, or points outside its folder.
    """
    if isinstance(source, onnx.ModelProto):
        where, model, folder = "model", source, None
    else:
        path = Path(source)
        where, folder = str(path), path.parent
        model = _parse(path)
    if not model.HasField("graph"):
        raise ModelError(f"{where}: holds no graph; is it an ONNX model?")
    external, is_external = 0, False
    try:
        for tensor in all_tensors(model):
            external += _check_tensor(tensor, where, folder)
            is_external = is_external or external_data_helper.uses_external_data(tensor)
        require_nodes(model, where)
        budgets.found(f"the nodes of {where}", budgets.NODE_BYTES * len(model.graph.node))
    except RecursionError:
        raise ModelError(f"{where}: graphs and functions are nested too deeply") from None
    original, model = model, short_domain(repaired(model))
    _check_valid(model, where, Path(where) if folder is not None and is_external else None)
    model = typed(model, original)
    if external and folder is not None and load_external_data:
        if external + model.ByteSize() > PROTOBUF_LIMIT:
            raise ModelError(
                f"{where}: {external} bytes of weights do not fit in one protobuf message; "
                "fold from file to file, which keeps them external"
            )
        external_data_helper.load_external_data_for_model(model, str(folder))
    return dense(model, folder)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        require_file(path)
    except OSError as error:
        raise ModelError(one_line(error)) from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not an ONNX model, or truncated ({one_line(error)})") from error
    return model


def _check_valid(model: onnx.ModelProto, where: str, path: Path | None) -> None:
    """Run onnx.checker; for a model with external data it needs the path."""
    try:
        onnx.checker.check_model(model if path is None else str(path))
    except (onnx.checker.ValidationError, ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not a valid ONNX model: {one_line(error)}") from error
    if any(not entry.domain for entry in model.opset_import):
        return
    if any(not node.domain for node in model.graph.node):
        raise ModelError(f"{where}: imports no opset of the default domain")


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, attributes, subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


_TYPES = frozenset(onnx.TensorProto.DataType.values())
# Number of typed entries of a tensor, by storage field; complex types take two each.
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_COMPLEX = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
_BITS: dict[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
}
for _name in ("INT2", "UINT2"):
    if hasattr(onnx.TensorProto, _name):
        _BITS[getattr(onnx.TensorProto, _name)] = 2


def _check_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> int:
    """Compare a tensor's data with its shape; return the bytes it keeps in another file."""
    name = f"{where}: tensor {tensor.name!r}"
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"{name} has a negative dimension {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if tensor.data_type not in _TYPES or tensor.data_type == 0:
        raise ModelError(f"{name} has the unknown type {tensor.data_type}")
    packed = _BITS.get(tensor.data_type)
    if tensor.data_type == onnx.TensorProto.STRING:
        nbytes = 0
    elif packed:
        nbytes = -(-count * packed // 8)
    else:
        nbytes = count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    if external_data_helper.uses_external_data(tensor):
        _check_external(tensor, name, folder, nbytes)
        return nbytes
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != nbytes:
            raise ModelError(
                f"{name} of shape {list(tensor.dims)} should hold {nbytes} bytes, "
                f"holds {len(tensor.raw_data)}"
            )
        return 0
    stored = max(len(getattr(tensor, field)) for field in _FIELDS)
    entries = count * 2 if tensor.data_type in _COMPLEX else count
    if packed:
        entries = -(-count * packed // 8)
    if stored != entries:
        raise ModelError(
            f"{name} of shape {list(tensor.dims)} should hold {entries} values, holds {stored}"
        )
    return 0


def _check_external(tensor: onnx.TensorProto, name: str, folder: Path | None, nbytes: int) -> None:
    """Accept only a regular file below the model's folder that is long enough."""
    if folder is None:
        raise ModelError(f"{name} lies in another file; give the path of the model instead")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", nbytes))
    except ValueError as error:
        raise ModelError(f"{name}: offset or length of external data is no number") from error
    inside = Path(location)
    root = folder.resolve()
    if not location or "\0" in location or inside.is_absolute() or ".." in inside.parts:
        raise ModelError(f"{name}: external data {location!r} lies outside the model's folder")
    target = root / inside
    if not target.resolve().is_relative_to(root) or target.is_symlink():
        raise ModelError(f"{name}: external data {location!r} lies outside the model's folder")
    try:
        require_file(target)
    except OSError:
        raise ModelError(f"{name}: external data {location!r} is missing") from None
    if length != nbytes or offset < 0 or offset + length > target.stat().st_size:
        raise ModelError(
            f"{name} needs {nbytes} bytes at offset {offset} of {location!r}, "
            f"which has {target.stat().st_size}; declared length {length}"
        )


def is_too_large(source: Source) -> bool:
    """Whether a file's external weights are more than one protobuf message can hold."""
    if isinstance(source, onnx.ModelProto) or not Path(source).is_file():
        return False
    if b"location" not in Path(source).read_bytes():
        return False  # every tensor in another file says where that is
    folder = Path(source).parent
    model = _parse(Path(source))
    external = sum(_check_tensor(t, str(source), folder) for t in all_tensors(model))
    return external + model.ByteSize() > PROTOBUF_LIMIT and external > 0


def write_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model atomically; all its data goes into the one file."""
    with atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
