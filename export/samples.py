"""Inputs to compare models on: random, adversarial, or the user's own."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastbn.budgets import BudgetError, require_memory
from fastbn.export.errors import ModelError, one_line
from fastbn.files import require_file

Sample = dict[str, NDArray[Any]]

# What dimensions of unknown size are set to, in the order of trying: deep networks halve 32 times.
FREE_SIZES = (12, 32, 64, 128, 224, 320, 640)
ELEMENT_LIMIT = 2**27

# Free dimensions are known by name, or by input and axis; their sizes together:
Sizes = dict[str, int]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input; a dimension that is a string is free, and those of one name are equal.

    Attributes
    ----------
    span : int
        How many values an integer input may have, from 0 on: the rows that a Gather chooses from.
    """

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str, ...]
    span: int = 2

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"


def input_specs(model: onnx.ModelProto) -> list[InputSpec]:
    """Return the inputs a caller has to give: graph inputs that have no initializer."""
    known = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in known:
            continue
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"input {value.name!r} is not a tensor; give check data for it")
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        dims: list[int | str] = []
        for axis, dim in enumerate(kind.shape.dim):
            # -1 and 0 are what some exporters write for a free dimension.
            fixed = dim.HasField("dim_value") and dim.dim_value > 0
            dims.append(dim.dim_value if fixed else dim.dim_param or f"{value.name}[{axis}]")
        span = index_span(model.graph, value.name) if dtype.kind in "iu" else 2
        specs.append(InputSpec(value.name, dtype, tuple(dims), span))
    return specs


# Operators after which an integer still chooses what it chose.
_CARRIES = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
            "Unsqueeze")  # fmt: skip


def index_span(graph: onnx.GraphProto, name: str) -> int:
    """How many values an integer may have: what the Gather and OneHot it reaches allow.

    2 where it reaches none, which every mask and flag accepts.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {name: list(tensor.dims) for name, tensor in known.items()}
    for value in graph.value_info:
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(value.name, [d.dim_value for d in dims])
    reached, spans = {name}, []
    for node in graph.node:
        if node.op_type in ("Gather", "GatherElements") and node.input[1] in reached:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            dims = shapes.get(node.input[0])
            spans += [dims[axis]] if dims and dims[axis] > 0 else []
        elif node.op_type == "OneHot" and node.input[0] in reached and node.input[1] in known:
            spans.append(int(onnx.numpy_helper.to_array(known[node.input[1]]).reshape(-1)[0]))
        elif node.op_type in _CARRIES and node.input and node.input[0] in reached:
            reached.update(node.output)
    return min(spans, default=2)


def free_dims(specs: Sequence[InputSpec]) -> tuple[list[str], list[str]]:
    """Free dimensions that lead an input (batches), and all others."""
    leading = dict.fromkeys(s.dims[0] for s in specs if s.dims and isinstance(s.dims[0], str))
    rest = dict.fromkeys(d for s in specs for d in s.dims[1:] if isinstance(d, str))
    return list(leading), [d for d in rest if d not in leading]


def same_sizes(specs: Sequence[InputSpec], batch: int, free: int) -> Sizes:
    """Give all free dimensions but batches one size."""
    leading, rest = free_dims(specs)
    return dict.fromkeys(leading, batch) | dict.fromkeys(rest, free)


def shapes(specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Concrete shapes of all inputs."""
    result = {}
    for spec in specs:
        shape = tuple(dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims)
        if math.prod(shape) > ELEMENT_LIMIT:
            raise ModelError(
                f"input {spec.name!r} of shape {shape} is too large to try out; "
                "give check data, or skip verification"
            )
        result[spec.name] = shape
    return result


def random_sample(specs: Sequence[InputSpec], sizes: Mapping[str, int], seed: int) -> Sample:
    """Draw standard normal numbers, and integers that go through all they may be in turn."""
    rng = np.random.default_rng(seed)
    shape = shapes(specs, sizes)
    sample: Sample = {}
    for spec in specs:
        if spec.dtype.kind in "iu":
            span = min(spec.span, int(np.iinfo(spec.dtype).max) + 1)
            count = math.prod(shape[spec.name])
            order = np.random.default_rng(0).permutation(span)
            chosen = order[np.arange(seed * count, (seed + 1) * count) % span]
            sample[spec.name] = rng.permutation(chosen).reshape(shape[spec.name]).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            sample[spec.name] = rng.integers(0, 2, shape[spec.name]).astype(bool)
        elif spec.is_float:
            sample[spec.name] = rng.standard_normal(shape[spec.name]).astype(spec.dtype)
        else:
            raise ModelError(f"input {spec.name!r} has type {spec.dtype}; give check data")
    return sample


ADVERSARIAL = ("zeros", "negative", "border", "ramp")


def adversarial_sample(specs: Sequence[InputSpec], sizes: Mapping[str, int], kind: str) -> Sample:
    """Make inputs that show what random ones average away.

    ``zeros`` leaves only the shifts, ``negative`` a constant below zero (Relu and max pooling),
    ``border`` only the outermost row of every axis (padding), ``ramp`` differs in every channel.
    """
    sample = random_sample(specs, sizes, 0)
    for spec in specs:
        if not spec.is_float:
            continue
        x = np.zeros(sample[spec.name].shape)
        if kind == "negative":
            x -= 2.0
        elif kind == "border":
            for axis in range(2, x.ndim):
                np.moveaxis(x, axis, 0)[[0, -1] if x.shape[axis] else []] = 3.0
            if x.ndim <= 2:
                x[..., :1] = 3.0
        elif kind == "ramp":
            x += np.linspace(-2.0, 2.0, x.size).reshape(x.shape)
        sample[spec.name] = x.astype(spec.dtype)
    return sample


def read_npz(path: str | os.PathLike[str]) -> Sample:
    """Read the arrays of an .npz file; nothing in it is executed.

    Raises
    ------
    ModelError
        If it is missing, damaged, or holds Python objects.
    """
    try:
        file = require_file(path)
    except OSError as error:
        raise ModelError(one_line(error)) from None
    try:
        with file.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":  # a single array
                raise ModelError(f"{path}: should hold arrays by name, as numpy.savez writes")
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        require_memory(unpacked, file.stat().st_size, f"{path}, unpacked,")
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: _member(arrays, name, path) for name in arrays.files}
    except (ModelError, BudgetError):
        raise
    except Exception as error:  # numpy's and zipfile's readers raise what they like
        raise ModelError(f"{path}: not a whole .npz file ({one_line(error)})") from error


def _member(arrays: Any, name: str, path: str | os.PathLike[str]) -> NDArray[Any]:
    array = arrays[name]
    if not isinstance(array, np.ndarray):  # a member that is no .npy comes as its bytes
        raise ModelError(f"{path}: should hold arrays by name, as numpy.savez writes")
    return array


def check_data(specs: Sequence[InputSpec], data: Mapping[str, NDArray[Any]]) -> Sample:
    """Take the user's own inputs, checked against the model.

    Raises
    ------
    ModelError
        If a name is missing or an array has the wrong rank or a wrong fixed dimension.
    """
    sample: Sample = {}
    for spec in specs:
        if spec.name not in data:
            names = ", ".join(sorted(data)) or "nothing"
            raise ModelError(f"check data has no array {spec.name!r}, but {names}")
        x = np.asarray(data[spec.name]).astype(spec.dtype, copy=False)
        wrong = len(x.shape) != len(spec.dims) or any(
            isinstance(dim, int) and dim != size
            for dim, size in zip(spec.dims, x.shape, strict=True)
        )
        if wrong:
            raise ModelError(
                f"check data for {spec.name!r} has shape {x.shape}, the model takes {spec.dims}"
            )
        sample[spec.name] = x
    return sample
