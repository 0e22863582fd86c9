"""Weights from PyTorch's files into a network of one's own or of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.files import require_file
from fastbn.models.registry import pixels_of
from fastbn.nn import Flatten, Module
from fastbn.nn.order import flattened

Array = NDArray[Any]

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints keep weights
NUMPY_TYPES = {
    f"{letter}{8 * size}": f"<{kind}{size}"
    for letter, kind, sizes in (
        ("F", "f", (2, 4, 8)),
        ("I", "i", (1, 2, 4, 8)),
        ("U", "u", (1, 2, 4, 8)),
    )
    for size in sizes
}
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


def load_torch(
    net: Module, path: str | os.PathLike[str], *, layout: str | None = None, strict: bool = True
) -> tuple[list[str], list[str]]:
    """Read weights that PyTorch has written into a network with the same names.

    Names may begin with ``module.`` or ``_orig_mod.``, as DataParallel and torch.compile write
    them; a checkpoint may keep the weights under "state_dict" or the like. float16, bfloat16 and
    float64 are converted to the network's type.

    Parameters
    ----------
    net : Module
        Where a Flatten of images stands, its input shape has to be known, from `build` or a call.
    path : path
        ``.safetensors``, or a ``.pt``, ``.pth`` or ``.bin`` file of ``torch.save``, which is read
        with ``weights_only=True`` where torch is installed.
    layout : {"NCHW", "NHWC"}, optional
        The order in which the file's network read an image at a Flatten: "NCHW" for PyTorch's own
        channels-first images, "NHWC" where it was channels-last. Only asked for where it matters,
        and not for networks of this package that others publish weights of.
    strict : bool, default True
        False passes over missing and unexpected names.

    Returns
    -------
    missing, unexpected : list of str
        As of ``net.load_state_dict``.

    Raises
    ------
    ValueError
        If names or shapes do not fit, or a Flatten needs `layout`; nothing has been changed then.
    ImportError
        If torch is needed and not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"module.0.weight": np.ones((1, 2))}, f"{folder}/model.safetensors")
    ...     load_torch(net, f"{folder}/model.safetensors")
    ([], [])
    >>> net[0].weight.data
    array([[1., 1.]], dtype=float32)
    """
    file = require_file(path)
    values, own = _read(file)
    if layout is None:
        layout = "NHWC" if own else "NCHW"
        known = own or pixels_of((net.factory or (None,))[0]) is not None
        if not known and (flatten := _flatten_of_images(net)) is not None:
            raise ValueError(
                f"{file}: behind {flatten} the order of the features depends on the layout of the "
                "images: say layout='NCHW' for a network of PyTorch's channels-first images, "
                "layout='NHWC' for one of channels-last images"
            )
    expected = net.state_dict()
    for name, value in expected.items():
        if name.endswith("num_batches_tracked") and name not in values:
            values[name] = value  # PyTorch before 0.4.1 did not count them
    dtype = net.dtype or np.dtype(np.float32)
    arrays = {name: _converted(name, value, dtype, file) for name, value in values.items()}
    try:
        return net.load_state_dict(arrays, strict=strict, layout=layout)
    except ValueError as error:
        raise ValueError(f"{file}: {error}{_hint(arrays, expected)}") from None


def shapes_of(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights in a file that `load_torch` reads, by their names.

    Raises
    ------
    ValueError, ImportError, OSError
        As `load_torch`.
    """
    return {name: tuple(value.shape) for name, value in _read(require_file(path))[0].items()}


def _read(file: Path) -> tuple[dict[str, Any], bool]:
    """Return the weights of a file, and whether this library has written it."""
    values, own = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    return _plain_names(values), own


def _read_safetensors(file: Path) -> tuple[dict[str, Any], bool]:
    """Return the arrays of a file, and whether this library has written it."""
    import ml_dtypes  # NumPy has no bfloat16 of its own, and safetensors' arrays have none either
    from safetensors import SafetensorError, deserialize, safe_open

    values = {}
    try:
        with safe_open(file, framework="numpy") as opened:
            own = "fastbn" in (opened.metadata() or {})
        content: Any = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        for name, told in content:
            kind = {"BF16": ml_dtypes.bfloat16, **NUMPY_TYPES}.get(told["dtype"])
            if kind is None:
                raise ValueError(
                    f"{file}: {name} is of type {told['dtype']}, which is unknown here"
                )
            values[name] = np.frombuffer(told["data"], kind).reshape(told["shape"])
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from None
    return {name: value for name, value in values.items() if not name.startswith("/")}, own


def _read_torch(file: Path) -> tuple[dict[str, Any], bool]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{file} is read by torch, which is not installed: write the weights as .safetensors "
            "there (safetensors.torch.save_file), or pip install torch"
        ) from error
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many classes, for files of other kinds
        why = str(error).partition("\n")[0].partition(" This file can still be loaded")[0]
        raise ValueError(
            f"{file}: torch cannot read it as weights: {why} If it holds a whole module, write its "
            "weights alone, torch.save(module.state_dict(), path)"
        ) from None
    for key in WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    if not isinstance(values, Mapping):
        raise ValueError(f"{file}: expected a state_dict, got {type(values).__name__}")
    tensors = {name: value.detach() for name, value in values.items() if torch.is_tensor(value)}
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        for name, value in tensors.items()
    }, False


def _plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Take a prefix away that all names have."""
    names = dict(values)
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _flatten_of_images(net: Module) -> str | None:
    """Return the name of a Flatten whose order differs between layouts, if there is one."""
    if not any(isinstance(module, Flatten) for module in net.modules()):
        return None
    if net.input_shape is None:
        raise ValueError(
            f"{net.where}: the shape of the input is needed for its Flatten; call the network or "
            "build(input_shape) first"
        )
    for layer, shape, _ in net.trace_built():
        if isinstance(layer, Flatten) and flattened(shape) is not None:
            return layer.where
    return None


def _converted(name: str, value: Any, dtype: np.dtype[Any], file: Path) -> Array:
    array = np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array.astype(dtype, copy=False)
    if name.endswith("num_batches_tracked") and array.dtype.kind in "iu":
        return array
    raise ValueError(f"{file}: {name} has values of dtype {array.dtype}, expected floating point")


def _hint(arrays: Mapping[str, Array], expected: Mapping[str, Array]) -> str:
    """Say what other layout of weights the shapes look like."""
    shapes = [(arrays[n].shape, value.shape) for n, value in expected.items() if n in arrays]
    others = [(given, wanted) for given, wanted in shapes if given != wanted]
    if others and all(given == wanted[::-1] for given, wanted in others if len(wanted) == 2):
        images = [(given, wanted) for given, wanted in others if len(wanted) == 4]
        if all(given == (*wanted[2:], wanted[1], wanted[0]) for given, wanted in images):
            return (
                "\n    The weights look like those of Keras or JAX, inputs before outputs; "
                "PyTorch's are (out, in) and (out, in, kh, kw)."
            )
    return ""
