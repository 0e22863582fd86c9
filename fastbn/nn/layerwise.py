"""A network run layer by layer, to look at what comes out of each."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from numpy.typing import NDArray

from fastbn.nn.concat import Concat
from fastbn.nn.containers import Residual, Sequential
from fastbn.nn.graph import Graph
from fastbn.nn.module import Module

Array = NDArray[Any]
Call = tuple[str, Module, tuple[Array, ...], Array]


def outputs(net: Module, x: Array) -> Iterator[tuple[str, Module, Array]]:
    """Yield path, layer and output of every layer, in the order they run; see `calls`."""
    for path, layer, _, y in _walk(net, "", x):
        yield path, layer, y


def calls(net: Module, x: Array) -> Iterator[Call]:
    """Yield path, layer, inputs and output of every layer, in the order they run.

    Layers run one by one, in the modes they are in: nothing is fused, and BatchNorm in training
    mode counts the batch. Nothing is saved for a backward.

    Parameters
    ----------
    net : Module
    x : ndarray
        Input ``(N, ...)``.

    Yields
    ------
    (str, Module, tuple of ndarray, ndarray)
    """
    yield from _walk(net, "", x)


def _walk(module: Module, path: str, *inputs: Array) -> Generator[Call, None, Array]:
    below = f"{path}." if path else ""
    if isinstance(module, Sequential):
        [x] = inputs
        for name, child in module.named_children():
            x = yield from _walk(child, below + name, x)
        return x
    if isinstance(module, Graph):
        names = {id(child): name for name, child in module.named_children()}
        values = list(inputs)
        for layer, slots in module.nodes:
            given = (values[slot] for slot in slots)
            values.append((yield from _walk(layer, below + names[id(layer)], *given)))
        return values[module.outputs[0]]
    if isinstance(module, Residual | Concat):
        for name, child in module.named_children():  # branches that all begin at the input
            yield from _walk(child, below + name, *inputs)
    y: Array = module(*inputs)
    module.discard()
    yield path, module, inputs, y
    return y
