"""Inputs to compare models on: random, adversarial, or the user's own."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
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

# What a dimension of unknown size is set to, in the order of trying: deep networks halve 32 times.
FREE_SIZES = (12, 32, 64, 224)
ELEMENT_LIMIT = 2**27


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Name, element type and dimensions of a graph input; a dimension may be a name or None."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | str | None, ...]


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
        dims: list[int | str | None] = []
        for dim in kind.shape.dim:
            if dim.HasField("dim_value"):
                dims.append(dim.dim_value)
            else:
                dims.append(dim.dim_param or None)
        specs.append(InputSpec(value.name, dtype, tuple(dims)))
    return specs


def shapes(specs: Sequence[InputSpec], batch: int, free: int) -> dict[str, tuple[int, ...]]:
    """Concrete shapes: an open first dimension becomes ``batch``, any other open one ``free``."""
    leading = {spec.dims[0] for spec in specs if spec.dims and isinstance(spec.dims[0], str)}
    result = {}
    for spec in specs:
        shape = []
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, int):
                shape.append(dim)
            else:
                shape.append(batch if axis == 0 or dim in leading else free)
        if math.prod(shape) > ELEMENT_LIMIT:
            raise ModelError(
                f"input {spec.name!r} of shape {tuple(shape)} is too large to try out; "
                "give check data, or skip verification"
            )
        result[spec.name] = tuple(shape)
    return result


def has_free_batch(specs: Sequence[InputSpec]) -> bool:
    """Whether the first dimension of some input is open."""
    return any(spec.dims and not isinstance(spec.dims[0], int) for spec in specs)


def random_sample(
    specs: Sequence[InputSpec], shape: Mapping[str, tuple[int, ...]], seed: int
) -> Sample:
    """Draw standard normal numbers; integers are 0 or 1, which every index and mask accepts."""
    rng = np.random.default_rng(seed)
    sample: Sample = {}
    for spec in specs:
        if spec.dtype.kind in "iu":
            sample[spec.name] = rng.integers(0, 2, shape[spec.name]).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            sample[spec.name] = rng.integers(0, 2, shape[spec.name]).astype(bool)
        elif spec.dtype.kind == "f" or spec.dtype.name == "bfloat16":
            sample[spec.name] = rng.standard_normal(shape[spec.name]).astype(spec.dtype)
        else:
            raise ModelError(f"input {spec.name!r} has type {spec.dtype}; give check data")
    return sample


ADVERSARIAL = ("zeros", "negative", "border", "ramp")


def adversarial_sample(
    specs: Sequence[InputSpec], shape: Mapping[str, tuple[int, ...]], kind: str
) -> Sample:
    """Make inputs that show what random ones average away.

    ``zeros`` leaves only the shifts, ``negative`` a constant below zero (Relu and max pooling),
    ``border`` only the outermost row of every axis (padding), ``ramp`` differs in every channel.
    """
    sample = random_sample(specs, shape, 0)
    for spec in specs:
        if spec.dtype.kind in "iub":
            continue
        x = np.zeros(shape[spec.name], dtype=np.float64)
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
    except (zlib.error, OSError, ValueError, EOFError, *_DAMAGED) as error:
        if isinstance(error, ModelError | BudgetError):
            raise
        raise ModelError(f"{path}: not a whole .npz file ({one_line(error)})") from error


# What numpy and zipfile raise for headers that make no sense.
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    KeyError,
    TypeError,
    SyntaxError,
    struct.error,
)


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
