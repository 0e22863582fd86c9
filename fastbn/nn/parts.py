"""Parts of networks: another last layer, and a network cut in two that share its layers."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from fastbn.nn.activation import Softmax
from fastbn.nn.containers import Sequential
from fastbn.nn.conv import Conv2d
from fastbn.nn.dropout import Dropout, Dropout2d
from fastbn.nn.graph import Graph
from fastbn.nn.init import Rng
from fastbn.nn.linear import Linear
from fastbn.nn.module import Module


class Part(Graph):
    """Some nodes of a graph, as a graph that shares the layers and their names.

    Parameters
    ----------
    whole : Graph
    first, last : int
        Numbers of values: this part takes the one and gives the other. Whatever is between them
        depends on nothing before.
    """

    transient = (*Graph.transient, "_whole")

    def __init__(self, whole: Graph, first: int, last: int) -> None:
        Module.__init__(self)
        count = whole.input_count
        self.nodes = [
            (layer, tuple(slot - first for slot in inputs))
            for layer, inputs in whole.nodes[max(first + 1 - count, 0) : last + 1 - count]
        ]
        self.outputs, self.several_outputs, self.input_count = [last - first], False, 1
        names = {layer: name for name, layer in whole.named_children()}
        self._given = {layer: names[layer] for layer, _ in self.nodes}
        self._ops = None
        self._whole: Graph | None = whole
        self._pool = whole._pool
        self.training = whole._training

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._whole = None  # a copy has layers of its own
        super().__setstate__(kept)

    def adopt_children(self) -> None:
        """Leave the layers what they are, parts of the whole."""
        if self._whole is None:
            super().adopt_children()
        else:
            self._whole.adopt_children()


def head_of(net: Module) -> Linear | Conv2d:
    """Return the last layer that has weights.

    Raises
    ------
    ValueError
        If that is no Linear or Conv2d.
    """
    layers = [module for module in net.modules() if next(module.own_parameters(), None)]
    last = layers[-1] if layers else None
    if not isinstance(last, Linear | Conv2d):
        found = "no layer with weights" if last is None else last.where
        raise ValueError(f"{net.where}: the head should be a Linear or Conv2d, it is {found}")
    return last


def with_new_head(net: Module, classes: int, rng: Rng = None) -> Module:
    """Give a network a new last layer, with this many outputs; return that layer.

    A Softmax after it, as files for inference have, is taken away from a graph.

    Raises
    ------
    ValueError
        If there is no last layer of a kind that is known, or the network would not have so many
        outputs then.
    """
    old = head_of(net)
    options: dict[str, Any] = {"rng": rng, "dtype": old.weight.dtype, "bias": old.bias is not None}
    new: Module
    if isinstance(old, Linear):
        new = Linear(old.in_features, classes, **options)
    else:
        new = Conv2d(old.in_channels, classes, old.kernel_size, **old.arguments, **options)
    owner, name = old.owner, old._name
    if isinstance(owner, Sequential):
        owner[int(name)] = new
    elif isinstance(owner, Graph):
        replace_layer(owner, old, new)
        end = owner.nodes[-1]
        if owner is net and isinstance(end[0], Softmax) and owner.outputs == [_last(owner)]:
            owner.outputs = [end[1][0]]
            owner.disown(owner.nodes.pop()[0])
            owner.invalidate_upwards()
    elif owner is None:
        raise ValueError(f"{net.where} is a single layer, not a network with a head")
    else:
        owner.disown(old)
        setattr(owner, name, new)
        owner.adopt_children()
        owner.invalidate_upwards()
    shape = net.output_shape(net.input_shape)
    if shape != (classes,):
        raise ValueError(
            f"{net.where}: behind {new.where}, whose outputs were to be {classes} classes, the "
            f"network gives {shape}"
        )
    return new


def replace_layer(graph: Graph, old: Module, new: Module) -> None:
    """Put a layer into the place and under the name of another one."""
    names = {layer: name for name, layer in graph.named_children()}
    graph.nodes = [(new if layer is old else layer, inputs) for layer, inputs in graph.nodes]
    graph._given.pop(old, None)
    graph._given[new] = names[old]
    graph.disown(old)
    graph.adopt(names[old], new)
    graph.invalidate_upwards()


def cut(net: Module, fixed: Set[Module]) -> tuple[Module, Module] | None:
    """Cut a network into what nothing changes in training, and the rest; None if there is no place.

    Parameters
    ----------
    net : Module
        A Graph or a Sequential; others are not cut.
    fixed : set of Module
        The layers with weights that are not trained.

    Returns
    -------
    front, rest : Module
        They share the layers. ``rest(front(x))`` is the network.
    """
    if isinstance(net, Sequential):
        count = 0
        while count < len(net) and _is_fixed(net[count], fixed):
            count += 1
        return (net[:count], net[count:]) if 0 < count < len(net) else None
    if not isinstance(net, Graph) or net.input_count > 1 or net.several_outputs:
        return None
    place = 0  # the value after which the rest begins
    for slot in range(1, _last(net)):
        if not _is_fixed(net.nodes[slot - 1][0], fixed):
            break
        if all(min(inputs) >= slot for _, inputs in net.nodes[slot:]):
            place = slot
    if not place or net.outputs != [_last(net)]:
        return None
    return Part(net, 0, place), Part(net, place, _last(net))


def _last(graph: Graph) -> int:
    """Return the number of the value that a graph's last node makes."""
    return graph.input_count + len(graph.nodes) - 1


def _is_fixed(layer: Module, fixed: Set[Module]) -> bool:
    """Tell whether a layer gives the same for the same input at every step of training."""
    return all(
        module in fixed
        if next(module.own_parameters(), None) or next(module.own_buffers(), None)
        else not isinstance(module, Dropout | Dropout2d)
        for module in layer.modules()
    )
