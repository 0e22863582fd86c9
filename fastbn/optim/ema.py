"""EMA: an exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastbn.nn import Module, population_statistics
from fastbn.optim.following import Array, Following, statistics
from fastbn.optim.settings import Scheduled, at_step, described, number_or_schedule, undescribed


class EMA(Following):
    """Averages of weights and running statistics over the steps (Polyak & Juditsky 1992).

    ``average = decay · average + (1 - decay) · weight`` at every `update`. Averages often predict
    better than the weights of any step. Running statistics do not belong to averaged weights, nor
    do their averages, exactly: give `apply` batches of the training set to take them anew.

    It is a callback of `fastbn.train.Trainer`, too, and then a part of its checkpoints.

    Parameters
    ----------
    net : Module
    decay : float or callable, default 0.999
        In [0, 1]; a callable gets the number of updates made.

    Attributes
    ----------
    updates : int
        The calls of `update` so far.

    Examples
    --------
    >>> from fastbn import nn, optim
    >>> net = nn.Linear(1, 1, bias=False, rng=0)
    >>> net.weight.data = [[0.0]]
    >>> ema = optim.EMA(net, decay=0.75)
    >>> net.weight.data = [[4.0]]
    >>> ema.update()
    >>> with ema.applied():
    ...     print(net.weight.data)
    [[1.]]
    >>> print(net.weight.data)
    [[4.]]
    """

    def __init__(self, net: Module, decay: Scheduled = 0.999) -> None:
        self.net = net
        self.decay = number_or_schedule("decay", decay, 1.0)
        self.updates = 0
        super().__init__()

    def trained(self) -> dict[str, Array]:
        """Return weights and statistics."""
        weights = {name: parameter.data for name, parameter in self.net.named_parameters()}
        return weights | statistics(self.net)

    def update(self) -> None:
        """Take in the weights as they are now; comes after every step of the optimizer."""
        self.follow(1.0 - at_step("decay", self.decay, self.updates, 1.0))
        self.updates += 1

    def on_step(self, trainer: Any) -> None:
        """Update, as a callback of a Trainer."""
        self.update()

    def apply(self, batches: Iterable[Array] | None = None) -> None:
        """Put the averages into the network, for good.

        Parameters
        ----------
        batches : iterable of ndarray, optional
            Inputs from the training set, of which the running statistics are taken anew (see
            `fastbn.nn.population_statistics`); without them they are averages, too.
        """
        self.hand_over()
        if batches is not None:
            population_statistics(self.net, batches)

    @contextmanager
    def applied(self, batches: Iterable[Array] | None = None) -> Iterator[Module]:
        """Put the averages into the network for a ``with`` block, as to evaluate it.

        Parameters
        ----------
        batches : iterable of ndarray, optional
            As in `apply`.
        """
        arrays = [parameter.data for parameter in self.net.parameters()]
        arrays += [buffer for _, buffer in self.net.named_buffers()]
        before = [array.copy() for array in arrays]
        try:
            self.apply(batches)
            yield self.net
        finally:
            for array, old in zip(arrays, before, strict=True):
                np.copyto(array, old)

    def state_dict(self) -> dict[str, Any]:
        """Return settings and averages; ``"average"`` has the names of the network's state."""
        return {
            "decay": described(self.decay),
            "updates": self.updates,
            "average": self.saved_copies(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, all or nothing.

        Raises
        ------
        ValueError
            If it belongs to another network.
        """
        missing = [key for key in ("decay", "updates", "average") if key not in state_dict]
        if missing:
            raise ValueError(f"loaded state dict of EMA has no {', '.join(missing)}")
        decay = undescribed("decay", state_dict["decay"], self.decay)
        decay = number_or_schedule("decay", decay, 1.0)
        self.load_copies(self.checked_copies(state_dict["average"]))
        self.decay, self.updates = decay, int(state_dict["updates"])

    def __repr__(self) -> str:
        return f"EMA({type(self.net).__name__}, decay={self.decay!r})"
