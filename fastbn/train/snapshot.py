"""A copy in memory of all that a training step changes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from fastbn.nn import Module


class Snapshot:
    """Weights, buffers, an optimizer's state and random states, as they are now.

    Parameters
    ----------
    net : Module
    optimizer : Optimizer, optional
        One without ``state_dict()`` is left alone.
    """

    def __init__(self, net: Module, optimizer: Any = None) -> None:
        self.net = net
        self.optimizer = optimizer if hasattr(optimizer, "state_dict") else None
        self.weights = net.state_dict()
        self.state = None if self.optimizer is None else self.optimizer.state_dict()
        self.groups = [(group, dict(group)) for group in getattr(optimizer, "param_groups", ())]
        self.random = random_states(net)

    def restore(self) -> None:
        """Make everything what it was."""
        self.net.load_state_dict(self.weights)
        if self.optimizer is not None:
            for group, settings in self.groups:
                group.update(settings)  # functions, too, which a state cannot hold
            self.optimizer.load_state_dict(self.state)
        set_random_states(self.net, self.random)


def generators(net: Module) -> list[np.random.Generator]:
    """Return every random generator of the layers once, in the order of the layers."""
    found: dict[int, np.random.Generator] = {}
    for module in net.modules():
        for value in vars(module).values():
            if isinstance(value, np.random.Generator):
                found.setdefault(id(value), value)
    return list(found.values())


def random_states(net: Module) -> list[Any]:
    """Return the states of `generators`."""
    return [copy.deepcopy(rng.bit_generator.state) for rng in generators(net)]


def set_random_states(net: Module, states: list[Any]) -> None:
    """Set what `random_states` returned.

    Raises
    ------
    ValueError
        If the network has another number of generators, or of another kind; nothing is set then.
    """
    own = generators(net)
    kinds = [rng.bit_generator.state["bit_generator"] for rng in own]
    given = [state["bit_generator"] for state in states]
    if kinds != given:
        raise ValueError(
            f"expected random states of {kinds}, one for every generator of the layers, got {given}"
        )
    for rng, state in zip(own, states, strict=True):
        rng.bit_generator.state = state
