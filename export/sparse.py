"""Sparse tensors of a model made dense: graph tools drop them, onnxruntime reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from fastbn.budgets import BudgetError, require_memory
from fastbn.export.demands import subgraphs
from fastbn.export.errors import DemandError, ModelError


def dense(model: onnx.ModelProto, folder: Path | None = None) -> onnx.ModelProto:
    """Return a copy without sparse tensors, or the model itself if there are none.

    Parameters
    ----------
    model : onnx.ModelProto
        Not changed.
    folder : path, optional
        Where external data lies.

    Raises
    ------
    ModelError
        If an index lies outside its tensor, or the dense tensor would be too large.
    """
    if not any(_is_sparse(graph) for graph in _graphs(model)):
        return model
    _require_dense_fits(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in _graphs(copy):
        if isinstance(graph, onnx.GraphProto):
            for sparse in graph.sparse_initializer:
                graph.initializer.append(_dense_tensor(sparse, folder))
            del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                    tensor = _dense_tensor(attribute.sparse_tensor, folder)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.t.CopyFrom(tensor)
    return copy


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield the main graph, functions, and every subgraph."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            pending += subgraphs(node)


def _is_sparse(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    if isinstance(graph, onnx.GraphProto) and graph.sparse_initializer:
        return True
    sparse = onnx.AttributeProto.SPARSE_TENSOR
    return any(attribute.type == sparse for node in graph.node for attribute in node.attribute)


def _require_dense_fits(model: onnx.ModelProto) -> None:
    """Refuse sparse tensors that together become too large, before one is made dense."""
    needed = 0
    for graph in _graphs(model):
        found = list(graph.sparse_initializer) if isinstance(graph, onnx.GraphProto) else []
        found += [a.sparse_tensor for node in graph.node for a in node.attribute]
        for sparse in found:
            kind = sparse.values.data_type
            size = int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize) if kind else 0
            needed += math.prod(sparse.dims) * size
    try:
        require_memory(needed, model.ByteSize(), "making the model's sparse tensors dense")
    except BudgetError as error:
        raise DemandError(str(error)) from None


def _dense_tensor(sparse: onnx.SparseTensorProto, folder: Path | None) -> onnx.TensorProto:
    """Fill in zeros; indices are (NNZ,), counted row-major, or (NNZ, rank)."""
    name, dims = sparse.values.name, list(sparse.dims)
    for part in (sparse.values, sparse.indices):
        if external_data_helper.uses_external_data(part) and folder is not None:
            external_data_helper.load_external_data_for_tensor(part, str(folder))
    values = numpy_helper.to_array(sparse.values).reshape(-1)
    indices = numpy_helper.to_array(sparse.indices)
    whole = np.zeros(math.prod(dims), dtype=values.dtype)
    try:
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), tuple(dims))
        if indices.size and indices.min() < 0:
            raise IndexError("negative")
        whole[indices] = values
    except (ValueError, IndexError) as error:
        raise ModelError(f"sparse tensor {name!r}: indices do not fit shape {dims}") from error
    return numpy_helper.from_array(whole.reshape(dims), name)
