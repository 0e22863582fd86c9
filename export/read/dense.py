"""Gemm, MatMul: products with a constant matrix, or of two values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.read.arithmetic import add_constant, combine
from fastbn.export.read.convolution import fill
from fastbn.export.read.node import Node, reads
from fastbn.export.read.value import UnreadableError, Value
from fastbn.nn.order import flattened

Array = NDArray[Any]


@reads("Gemm")
def gemm(node: Node) -> Value:
    """Read alpha · A B + beta · C."""
    x, matrix = node.value(), node.required(1)
    if x.rank != 2 or matrix.ndim != 2:
        raise UnreadableError("its factors are no matrices")
    if node.whole("transA"):
        x = replace(x, axes=x.axes[::-1])
    if not node.whole("transB"):
        matrix = matrix.T
    matrix = matrix * matrix.dtype.type(node.number("alpha", 1.0))
    other, beta = node.input(2), node.number("beta", 1.0)
    if other is None or beta == 0.0:
        return linear(node, x, matrix)
    if isinstance(other, Value):
        y = linear(node, x, matrix)
        if beta != 1.0:
            other = other.through(nn.Scale(beta))
        return combine(nn.Add(), y, other)
    bias = node.required(2) * beta
    if bias.size in (1, matrix.shape[0]) and (bias.ndim < 2 or bias.shape[0] == 1):
        return linear(node, x, matrix, np.broadcast_to(bias.reshape(-1), matrix.shape[:1]))
    return add_constant(node, linear(node, x, matrix), bias)


@reads("MatMul")
def matmul(node: Node) -> Value:
    """Read a product; one factor may be a constant matrix."""
    a, b = node.input(0), node.input(1)
    if isinstance(a, Value) and isinstance(b, Value):
        return product(a, b)
    if isinstance(a, Value):
        matrix = node.required(1)
        if matrix.ndim != 2:
            raise UnreadableError(f"a constant factor of {matrix.ndim} axes")
        return linear(node, a, matrix.T)
    matrix, x = node.required(0), node.value(1)
    if matrix.ndim != 2 or x.rank < 2:
        raise UnreadableError(f"a constant factor of {matrix.ndim} axes")
    return linear(node, x, matrix, axis=x.rank - 2, weight=0)


def linear(
    node: Node,
    x: Value,
    matrix: Array,
    bias: Array | None = None,
    *,
    axis: int | None = None,
    weight: int = 1,
) -> Value:
    """Multiply an axis, the last by default, by a matrix (out, in).

    An image that was flattened channel by channel is flattened as it lies here, and the matrix
    permuted.
    """
    axis = x.rank - 1 if axis is None else axis
    if x.shape[axis] != matrix.shape[1]:
        raise UnreadableError(f"a matrix of {matrix.shape[1]} columns for {x.shape[axis]} features")
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, rng=0)
    node.name(layer, weight)
    last = len(x.symbol.shape)
    if last > 1 and x.axes == ((0,), (last, *range(1, last))):
        order = flattened(x.symbol.shape)
        if order is not None:
            matrix = matrix[:, np.argsort(order)]
        fill(layer, matrix, bias)
        return Value.natural(layer(nn.Flatten()(x.symbol)), x.batch)
    fill(layer, matrix, bias)
    return x.ending(axis).through(layer)


def product(a: Value, b: Value) -> Value:
    """Multiply two values as matrices."""
    rank = max(a.rank, b.rank)
    if min(a.rank, b.rank) < 3 or a.rank != b.rank:
        raise UnreadableError("a product of values that are no batches of matrices")
    if a.shape[1:-2] != b.shape[1:-2]:
        raise UnreadableError("a product of values that are broadcast")
    order = range(1, rank)
    symbol = nn.MatMul()(a.arranged(order), b.arranged(order))
    return Value.natural(symbol, a.batch)
