"""from_onnx: check a file, find the sizes it leaves open, and draw its graph."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from onnx import inliner

from fastbn import nn
from fastbn.budgets import MEMORY, allowed_memory, parameters
from fastbn.export.errors import ModelError
from fastbn.export.fold.attempts import read
from fastbn.export.io import read_model
from fastbn.export.read import (  # noqa: F401  (they enter their readers into the table)
    activation,
    arithmetic,
    channels,
    convolution,
    dense,
    layout,
    normalization,
    pooling,
    resize,
)
from fastbn.export.read.reader import NotReadError, Reader, inputs_of, sizes_of

OLDEST_OPSET, NEWEST_OPSET = 7, 26
# Sizes that the file leaves free, in the order of trying, where the caller says nothing.
FREE_SIZES = (224, 320, 640, 128, 64, 32, 12)
# The batch while shapes are worked out: a prime number, so that it is recognised in a product; and
# one sample, as in files whose Reshapes were written down for one.
BATCHES = (61, 1)


def from_onnx(
    path: str | os.PathLike[str] | onnx.ModelProto,
    *,
    trainable: bool = True,
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> nn.Graph:
    """Read an inference graph, of any tool, as a network that can be trained.

    Values are channels-last inside: what the file has as (N, C, H, W) goes in and comes out as
    (N, H, W, C), and (N, C, L) as (N, L, C). Only a file that itself begins by transposing its
    input from channels-last, or ends by transposing to it, keeps that order. Inputs and outputs
    come in the file's order; inputs that no output depends on are left out.

    Weights are copies: one that the file uses twice becomes two. BatchNorms keep running
    statistics, weight and bias. Layers have the names of their weights, else of their nodes.

    Parameters
    ----------
    path : path or onnx.ModelProto
        A file of opset 7 to 26.
    trainable : bool, default True
        False for a network that stays as it is: no parameter is trained, BatchNorms are frozen, and
        the network is in inference mode.
    input_shape : sequence of int, optional
        Shape of one sample as the network takes it, for a file that leaves sizes open; a sequence
        of shapes where there are several inputs. By default the first of some usual sizes that
        fits. Convolutions and pools take other sizes, too; layers after a Flatten do not.

    Returns
    -------
    Graph
        In training mode, with the file's function in inference.

    Raises
    ------
    ModelError
        If the file is missing, broken or none for inference; or with a list of all nodes that
        cannot be read, and why.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from fastbn import export, nn
    >>> layers = nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Linear(4, 2, rng=1)
    >>> net = nn.Sequential(*layers).build((8, 8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export.to_onnx(net, folder + "/net.onnx")
    ...     again = export.from_onnx(folder + "/net.onnx")
    >>> x = np.ones((1, 8, 8, 3), np.float32)
    >>> bool(np.allclose(again.predict(x), net.predict(x)))
    True
    >>> sorted(again.state_dict())
    ['0.bias', '0.weight', '3.bias', '3.weight']
    """
    model = _prepared(path)
    size = model.ByteSize()
    shapes = _given_shapes(input_shape)
    holder = read(model)
    with parameters((allowed_memory(size, MEMORY)) // 4, "the file"):
        net = _readable(holder, shapes)
    if not trainable:
        net.requires_grad_(False).eval()
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm):
                layer.freeze()
    return net


def _prepared(path: str | os.PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    """Read and check a file, and put the bodies of its functions where they are called."""
    model = read_model(path)
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"opset {opset}: files of opset {OLDEST_OPSET} to {NEWEST_OPSET} can be read; convert "
            "it with onnx.version_converter"
        )
    return inliner.inline_local_functions(model) if model.functions else model


def _given_shapes(given: Any) -> list[tuple[int, ...]] | None:
    if given is None:
        return None
    several = bool(given) and not hasattr(given[0], "__index__")
    return [tuple(int(n) for n in each) for each in (given if several else [given])]


def _readable(model: ir.Model, shapes: list[tuple[int, ...]] | None) -> nn.Graph:
    """Read with the first sizes of what is free that fit."""
    first: NotReadError | None = None
    for size, batch in _tries(model, shapes):
        try:
            return Reader(model, shapes, size, batch).graph()
        except NotReadError as error:
            first = first or error
            if error.hopeless:
                break
    assert first is not None
    raise first


def _tries(model: ir.Model, shapes: Any) -> Iterator[tuple[int, int]]:
    """Sizes and batches to try, where the file leaves them open."""
    dims = [sizes_of(value) for value in inputs_of(model)]
    batches = {d[0] for d in dims if d and d[0] is not None}
    free = shapes is None and any(n is None for d in dims for n in d[1:])
    known = sorted(n for n in batches if n is not None)
    yield from itertools.product(
        FREE_SIZES if free else FREE_SIZES[:1], known[:1] if known else BATCHES
    )
