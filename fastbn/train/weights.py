"""Weights in safetensors files, with what is needed to build the network again.

The file's metadata carry one JSON object under the key ``fastbn``; see `Metadata`. A file is
written beside its place and moved there when it is whole and on the disk: whoever is killed in
between leaves the old file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any, NamedTuple

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as tensors_to_bytes

from fastbn.budgets import parameters
from fastbn.files import atomic, require_file
from fastbn.nn import Module
from fastbn.nn.state import shapes_of

FORMAT_VERSION = 1
KEY = "fastbn"
# Of one sample; more than any layer takes.
MAX_AXES = 8
EXTRA = "/"  # begins the names of arrays that are no weights; a checkpoint has some


@dataclass(frozen=True)
class Metadata:
    """What a file says about its network.

    Attributes
    ----------
    format_version : int
        Raised when an older reader could not read the file any more.
    model : str or None
        Name in `fastbn.models`, or ``package.module:factory``.
    arguments : dict
        Arguments of the factory.
    input_shape : list of int or None
        Shape of one sample, channels-last; a list of tuples where there are several inputs.
    classes : list of str or None
        Names of the outputs.
    input_normalization : dict
        What was done to the pixels: ``(x - mean) / std`` for every channel, lists "mean" and
        "std"; empty for pixels in [0, 1] as `fastbn.data` gives them.
    target_normalization : dict
        The same of the numbers to predict: outputs are ``(y - mean) / std``.
    columns : dict
        How rows of a table became numbers, as of `fastbn.data.Columns.as_dict`; else empty.

    Examples
    --------
    >>> metadata = Metadata(model="mlp", arguments={"hidden": [64]}, classes=["cat", "dog"])
    >>> metadata.model, metadata.input_shape
    ('mlp', None)
    """

    format_version: int = FORMAT_VERSION
    model: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    input_shape: list[Any] | None = None
    classes: list[str] | None = None
    input_normalization: dict[str, list[float]] = field(default_factory=dict)
    target_normalization: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def save(
    net: Module,
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    arguments: dict[str, Any] | None = None,
    input_shape: Sequence[Any] | None = None,
    classes: Sequence[Any] | None = None,
    input_normalization: dict[str, list[float]] | None = None,
    target_normalization: dict[str, list[float]] | None = None,
    columns: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> Metadata:
    """Write the state of a network, and how to build it, to a safetensors file.

    Parameters
    ----------
    net : Module
        The network.
    path : path
        The file; an older one is replaced in one step.
    model : str, optional
        Name in `fastbn.models` or ``package.module:factory``; networks from `fastbn.models` know
        theirs.
    arguments : dict, optional
        The factory's arguments, of JSON's types; networks from `fastbn.models` know theirs.
    input_shape : sequence of int, optional
        Shape of one sample, or of several inputs; by default that of the last call.
    classes : sequence, optional
        Names of the outputs, or their labels, as ``numpy.unique(y)`` gives them.
    input_normalization : dict, optional
        Lists "mean" and "std" of what was done to the pixels.
    target_normalization : dict, optional
        The same of the numbers that the network learned to predict.
    columns : dict, optional
        How rows of a table became numbers: ``data.columns.as_dict()``.
    training, extra : dict, optional
        What makes the file a checkpoint; see `fastbn.train.Trainer.save`.

    Returns
    -------
    Metadata
        As written.

    Raises
    ------
    TypeError
        If the arguments are not of JSON's types.
    OSError
        If the file cannot be written; an older one is untouched.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.mlp((8, 8, 1), rng=0)
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metadata = save(net, Path(folder) / "model.safetensors")
    ...     again = load(Path(folder) / "model.safetensors")
    >>> metadata.model, bool((again[1].weight.data == net[1].weight.data).all())
    ('mlp', True)
    """
    if model is None and net.factory is not None:
        model, own_arguments = net.factory
        arguments = own_arguments if arguments is None else arguments
    shape = net.input_shape if input_shape is None else input_shape
    metadata = Metadata(
        model=model,
        arguments=arguments or {},
        input_shape=None if shape is None else _listed(shape),
        classes=None if classes is None else [str(name) for name in classes],
        input_normalization=input_normalization or {},
        target_normalization=target_normalization or {},
        columns=columns or {},
    )
    told = asdict(metadata) | ({} if training is None else {"training": training})
    arrays = {**net.state_dict(), **(extra or {})}
    content = tensors_to_bytes(arrays, metadata={KEY: json.dumps(told)})
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return metadata


def load(
    path: str | os.PathLike[str], net: Module | None = None, *, inference: bool = False
) -> Module:
    """Read a file into a network.

    Parameters
    ----------
    path : path
        A file that `save` wrote.
    net : Module, optional
        The network; by default one is built as the file says, which takes a model of
        `fastbn.models`. Factories elsewhere are never imported because a file says so: build the
        network yourself and pass it.
    inference : bool, default False
        Return it in inference mode.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If the file is damaged, does not fit the network, or does not name a known model.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastbn import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metadata = save(models.mlp((8, 8, 1), rng=0), Path(folder) / "model.safetensors")
    ...     net = load(Path(folder) / "model.safetensors", inference=True)
    >>> net.training, net.output_shape((8, 8, 1))
    (False, (10,))
    """
    state, metadata = read(path)
    if net is None:
        from fastbn import models

        if metadata.model is None or metadata.model not in models.names():
            raise ValueError(
                f"{os.fspath(path)}: made by {metadata.model or 'an unnamed network'}, which is "
                "not a model of fastbn.models; build the network and pass it as net"
            )
        net = build_described(path, state, metadata)
    try:
        net.load_state_dict(state)
        if metadata.input_shape is not None:
            net.build(tuple(metadata.input_shape))
            _check_classes(net, metadata)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return net.eval() if inference else net


def build_described(
    path: str | os.PathLike[str], state: Mapping[str, NDArray[Any]], metadata: Metadata
) -> Module:
    """Build the model of `fastbn.models` that a file describes, if its weights can fill it."""
    from fastbn import models

    assert metadata.model is not None
    count = sum(array.size for array in state.values())
    try:
        with parameters(count, os.fspath(path)):
            return models.build(metadata.model, **metadata.arguments)
    except (TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError(
            f"{os.fspath(path)}: the arguments of {metadata.model} in its metadata are wrong: "
            f"{error}"
        ) from None


def _listed(shape: Sequence[Any]) -> list[Any]:
    """Return a shape, or those of several inputs, as metadata have them."""
    shapes = [tuple(int(size) for size in each) for each in shapes_of(shape)]
    return list(shapes[0]) if shapes_of(shape) == (tuple(shape),) else [*shapes]


def _check_classes(net: Module, metadata: Metadata) -> None:
    assert metadata.input_shape is not None
    outputs = net.output_shape(*shapes_of(tuple(metadata.input_shape)))[-1]
    if metadata.classes is not None and len(metadata.classes) != outputs:
        raise ValueError(
            f"its metadata name {len(metadata.classes)} classes, the network has {outputs} outputs"
        )


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], Metadata]:
    """Return the weights and the metadata of a file; of a checkpoint no more than that.

    Raises
    ------
    ValueError
        If it is not a whole safetensors file that `save` wrote.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fastbn import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     metadata = save(models.mlp((8, 8, 1), rng=0), Path(folder) / "model.safetensors")
    ...     weights, metadata = read(Path(folder) / "model.safetensors")
    >>> weights["1.weight"].shape, metadata.input_shape
    ((128, 64), [8, 8, 1])
    """
    found = contents(path)
    return found.state, found.metadata


class Contents(NamedTuple):
    """Everything that is in a file; `training` and `extra` are a checkpoint's."""

    state: dict[str, NDArray[Any]]
    metadata: Metadata
    training: dict[str, Any] | None
    extra: dict[str, NDArray[Any]]


def contents(path: str | os.PathLike[str]) -> Contents:
    """Return everything that is in a file; raises what `read` does."""
    content = require_file(path).read_bytes()
    name = os.fspath(path)
    try:
        state = read_tensors(content)
        (length,) = struct.unpack_from("<Q", content)  # the header's, as the format has it
        header = json.loads(content[8 : 8 + length])
    except (SafetensorError, ValueError, KeyError, struct.error, RecursionError) as error:
        raise ValueError(f"{name}: not a whole safetensors file: {error}") from None
    try:
        values = json.loads(header["__metadata__"][KEY])
        version = values["format_version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            f"{name}: a safetensors file, but not one of fastbn's: its metadata have no "
            f"{KEY!r} object with a format_version"
        ) from None
    if version != FORMAT_VERSION:
        raise ValueError(f"{name}: format version {version}, this fastbn reads {FORMAT_VERSION}")
    training = values.get("training")
    if not isinstance(training, dict | None):
        raise ValueError(f"{name}: metadata of wrong type: training")
    extra = {key: state.pop(key) for key in list(state) if key.startswith(EXTRA)}
    return Contents(state, _metadata(values, name), training, extra)


def _metadata(values: dict[str, Any], name: str) -> Metadata:
    """Check the types of what a file says, which anybody may have written."""
    expected: dict[str, type | UnionType] = {
        "format_version": int,
        "model": str | None,
        "arguments": dict,
        "input_shape": list | None,
        "classes": list | None,
        "input_normalization": dict,
        "target_normalization": dict,
        "columns": dict,
    }
    known = {key: value for key, value in values.items() if key in expected}
    wrong = {key for key, value in known.items() if not isinstance(value, expected[key])}
    lists = {key: known.get(key) or () for key in expected if key not in wrong}
    shape = lists.get("input_shape", ())
    if shape and all(isinstance(each, list) for each in shape):
        known["input_shape"] = shape = [tuple(each) for each in shape]
    sizes: list[Any] = [size for each in shapes_of(shape) for size in each] if shape else []
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes) or len(sizes) > MAX_AXES:
        wrong.add("input_shape")
    if not all(isinstance(label, str) for label in lists.get("classes", ())):
        wrong.add("classes")
    for key in ("input_normalization", "target_normalization"):
        if not _is_normalization(lists.get(key) or {}):
            wrong.add(key)
    if wrong:
        raise ValueError(f"{name}: metadata of wrong type: {', '.join(sorted(wrong))}")
    return Metadata(**known)


def _is_normalization(values: dict[str, Any]) -> bool:
    """Whether something is empty, or two lists of finite numbers, the deviations above zero."""
    if not values:
        return True
    mean, std = values.get("mean"), values.get("std")
    return (
        isinstance(mean, list)
        and isinstance(std, list)
        and len(mean) == len(std) > 0
        and all(type(x) in (int, float) and math.isfinite(x) for x in (*mean, *std))
        and all(x > 0 for x in std)
    )
