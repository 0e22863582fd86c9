"""Reading and writing the state of a network by PyTorch's names, in either image layout.

Weights have PyTorch's shapes anyway. What the layout changes is the order of the features after a
Flatten; see `order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn.nn.order import Orders

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Array = NDArray[Any]


def _stored(net: Module) -> dict[str, Array]:
    """Return the arrays of the state themselves, in PyTorch's order of names."""
    found: dict[str, Array] = {}
    for prefix, module in net.named_modules():
        arrays = {name: parameter.data for name, parameter in module.own_parameters()}
        arrays |= dict(module.own_buffers())
        found |= {(f"{prefix}.{name}" if prefix else name): a for name, a in arrays.items()}
    return found


def _orders(net: Module, layout: str) -> Orders:
    if layout not in {"NHWC", "NCHW"}:
        raise ValueError(f"{net.where}: layout should be 'NHWC' or 'NCHW', got {layout!r}")
    found = Orders(net)
    if layout == "NCHW":
        net.follow_order(found, None)
    return found


def state_dict(net: Module, layout: str) -> dict[str, Array]:
    """Return copies of the state; see `fastbn.nn.Module.state_dict`."""
    found = _orders(net, layout)
    return {
        name: np.array(found.theirs(stored), order="C") for name, stored in _stored(net).items()
    }


def load_state_dict(
    net: Module, values: Mapping[str, ArrayLike], *, strict: bool, layout: str
) -> tuple[list[str], list[str]]:
    """Copy values into the state; see `fastbn.nn.Module.load_state_dict`."""
    found = _orders(net, layout)
    stored = _stored(net)
    missing = [name for name in stored if name not in values]
    unexpected = [name for name in values if name not in stored]
    arrays = {name: np.asarray(values[name]) for name in stored if name in values}
    problems = []
    if strict and missing:
        problems.append("Missing key(s) in state_dict: " + _quoted(missing))
    if strict and unexpected:
        problems.append("Unexpected key(s) in state_dict: " + _quoted(unexpected))
    problems += [
        f"size mismatch for {name}: copying a param with shape {array.shape} from checkpoint, "
        f"the shape in current model is {stored[name].shape}"
        for name, array in arrays.items()
        if array.shape != stored[name].shape
    ]
    if problems:
        lines = "".join(f"\n    {problem}" for problem in problems)
        raise ValueError(f"Error(s) in loading state_dict for {type(net).__name__}:{lines}")
    for name, array in arrays.items():
        if not np.can_cast(array.dtype, stored[name].dtype, casting="same_kind"):
            raise TypeError(
                f"{name}: expected values of dtype {stored[name].dtype}, got {array.dtype}"
            )
    for name, array in arrays.items():
        axis, order = found.axes.get(id(stored[name]), (0, None))
        if order is None:
            stored[name][...] = array
        else:
            stored[name][(slice(None),) * axis + (order,)] = array
    return missing, unexpected


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def shapes_of(input_shape: Any) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of several inputs or outputs, where one's shape stands for itself."""
    several = bool(input_shape) and isinstance(input_shape[0], tuple)
    return tuple(input_shape) if several else (tuple(input_shape),)


def batch_of(shape: tuple[int, ...]) -> str:
    """Return the shape of a batch of samples, for messages.

    Examples
    --------
    >>> batch_of((28, 28, 1)), batch_of((10,))
    ('(N, 28, 28, 1)', '(N, 10)')
    """
    return "(" + ", ".join(["N", *map(str, shape)]) + ")"
