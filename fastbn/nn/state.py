"""Reading and writing the state of a network by PyTorch's names, in either image layout.

Weights have PyTorch's shapes anyway. What the layout changes is the order in which a Flatten
reads an image, H, W, C here and C, H, W in PyTorch, and with it the order of the features of what
follows: an `Order` holds, for every feature in PyTorch's order, its index in ours. It starts at a
Flatten, goes through layers that work feature by feature, and ends in the columns of a Linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Array = NDArray[Any]
Order = NDArray[np.intp] | None


class Reordered:
    """The state that an order permutes, found by walking through the network.

    Attributes
    ----------
    inputs : dict
        Shape of one sample at the input of every layer.
    axes : dict
        By the identity of a stored array: the axis that is permuted, and the order.
    """

    def __init__(self, inputs: Mapping[Module, tuple[int, ...]]) -> None:
        self.inputs = inputs
        self.axes: dict[int, tuple[int, NDArray[np.intp]]] = {}

    def add(self, stored: Array, axis: int, order: NDArray[np.intp]) -> None:
        """Note that `order` permutes this axis of an array of the state."""
        self.axes[id(stored)] = (axis, order)


def flattened_order(shape: tuple[int, ...]) -> Order:
    """Return where PyTorch's flattened features stand in ours: shape (..., C), None if the same.

    Examples
    --------
    >>> flattened_order((1, 3, 2))
    array([0, 2, 4, 1, 3, 5])
    >>> flattened_order((28, 28, 1)) is None
    True
    """
    natural = np.arange(int(np.prod(shape))).reshape(shape)
    order = np.moveaxis(natural, -1, 0).reshape(-1)
    return None if np.array_equal(order, natural.reshape(-1)) else order


def _stored(net: Module) -> dict[str, Array]:
    """Return the arrays of the state themselves, in PyTorch's order of names."""
    found: dict[str, Array] = {}
    for prefix, module in net.named_modules():
        arrays = {name: parameter.data for name, parameter in module.own_parameters()}
        arrays |= dict(module.own_buffers())
        found |= {(f"{prefix}.{name}" if prefix else name): a for name, a in arrays.items()}
    return found


def _reordered(net: Module, layout: str) -> Reordered:
    if layout not in {"NHWC", "NCHW"}:
        raise ValueError(f"{net.where}: layout should be 'NHWC' or 'NCHW', got {layout!r}")
    from fastbn.nn.flatten import Flatten

    if layout == "NHWC" or not any(isinstance(module, Flatten) for module in net.modules()):
        return Reordered({})
    if net.input_shape is None:
        raise ValueError(
            f"{net.where}: layout='NCHW' needs the shape of the input; "
            "call the network or build(input_shape) first"
        )
    found = Reordered({layer: shape for layer, shape, _ in net.trace(net.input_shape)})
    net.follow_order(None, found)
    return found


def state_dict(net: Module, layout: str) -> dict[str, Array]:
    """Return copies of the state; see `fastbn.nn.Module.state_dict`."""
    found = _reordered(net, layout)
    result = {}
    for name, stored in _stored(net).items():
        axis, order = found.axes.get(id(stored), (0, None))
        copy = np.array(stored, order="C") if order is None else stored.take(order, axis)
        result[name] = np.ascontiguousarray(copy) if copy.ndim else copy
    return result


def load_state_dict(
    net: Module, values: Mapping[str, ArrayLike], *, strict: bool, layout: str
) -> tuple[list[str], list[str]]:
    """Copy values into the state; see `fastbn.nn.Module.load_state_dict`."""
    found = _reordered(net, layout)
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


def batch_of(shape: tuple[int, ...]) -> str:
    """Return the shape of a batch of samples, for messages.

    Examples
    --------
    >>> batch_of((28, 28, 1)), batch_of((10,))
    ('(N, 28, 28, 1)', '(N, 10)')
    """
    return "(" + ", ".join(["N", *map(str, shape)]) + ")"
