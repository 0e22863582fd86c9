"""What becomes of statistics, and of γ and β, beside the training that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from fastbn import nn
from fastbn.experiments.experiment import Array
from fastbn.train import Callback, Trainer

Statistics = list[tuple[Array, Array]]


def norms_of(net: nn.Module) -> list[nn.BatchNorm]:
    """Return the layers of batch normalisation."""
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm)]


def statistics_of(net: nn.Module) -> Statistics:
    """Return copies of the running statistics."""
    return [(np.array(n.running_mean), np.array(n.running_var)) for n in norms_of(net)]


@contextmanager
def using(net: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Run inference with other statistics for a while."""
    before = statistics_of(net)
    for each, end in ((statistics, False), (before, True)):
        for norm, (mean, var) in zip(norms_of(net), each, strict=True):
            norm.running_mean[...], norm.running_var[...] = mean, var  # type: ignore[index]
        if not end:
            yield


class Averages(Callback):
    """Keep moving averages of every batch's statistics, from 0 and 1 on."""

    def __init__(self, net: nn.Module, momenta: Iterable[float]) -> None:
        for norm in norms_of(net):
            norm.momentum = 1.0  # the last batch alone
        self.of = {momentum: statistics_of(net) for momentum in momenta}

    def on_step(self, trainer: Trainer) -> None:
        """Move them all."""
        now = statistics_of(trainer.net)
        for momentum, kept in self.of.items():
            for old, new in zip(kept, now, strict=True):
                for average, value in zip(old, new, strict=True):
                    average[...] += momentum * (value - average)


class OwnAffine(Callback):
    """Give every batch of a fixed partition its own γ and β."""

    def __init__(self, net: nn.Module, batches: int) -> None:
        self.parameters = [p for norm in norms_of(net) for p in norm.parameters()]
        self.of = [[p.data.copy() for p in self.parameters] for _ in range(batches)]

    def on_step(self, trainer: Trainer) -> None:
        """Keep those of this batch, and put in those of the next."""
        self.of[(trainer.steps - 1) % len(self.of)] = [p.data.copy() for p in self.parameters]
        self.put(self.of[trainer.steps % len(self.of)])

    def put(self, values: Iterable[Array]) -> None:
        """Write γ and β."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data[...] = value

    def mean(self) -> list[Array]:
        """Return their means over the batches."""
        return [np.mean(values, axis=0) for values in zip(*self.of, strict=True)]
