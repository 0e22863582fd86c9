"""BatchNorms of a network whose batches are shared by several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fastbn.functional.moments import Gather
from fastbn.nn.batchnorm import Across, BatchNorm
from fastbn.nn.module import Module

BN_MODES = ("sync", "local", "ghost")


@contextmanager
def across_ranks(net: Module, gather: Gather, mode: str) -> Iterator[None]:
    """Let the BatchNorms of a network know of the other processes for a ``with`` block.

    Parameters
    ----------
    net : Module
    gather : callable
        ``gather(array)`` returns the arrays of all processes, in one order.
    mode : {"sync", "local", "ghost"}
        "sync": statistics are of the rows of all; "ghost": of the own rows, but running statistics
        follow those of all; "local": processes know nothing of each other.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, BatchNorm)]
    if mode != "local":
        for layer in layers:
            layer.across = Across(gather, ghost=mode == "ghost")
        net.invalidate_upwards()
    for module in net.modules():
        module.invalidate()
    try:
        yield
    finally:
        for layer in layers:
            layer.across = None
        for module in net.modules():
            module.invalidate()


def average_statistics(net: Module, gather: Gather) -> None:
    """Let the running statistics of all processes be those of all rows together.

    Mean is the mean of the means, and variance the mean of the variances plus the variance of the
    means: rows of one process lie about its own mean, and that about the others' (the mean of the
    variances alone would be too small).
    """
    layers = [
        layer
        for layer in net.modules()
        if isinstance(layer, BatchNorm) and layer.running_mean is not None and not layer.frozen
    ]
    if not layers:
        return
    own = [np.array([layer.running_mean, layer.running_var], dtype=np.float64) for layer in layers]
    told = np.stack(gather(np.concatenate(own, axis=1)))
    mean = told[:, 0].mean(axis=0)
    var = told[:, 1].mean(axis=0) + told[:, 0].var(axis=0)
    first = 0
    for layer in layers:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        part = slice(first, first + layer.num_features)
        layer.running_mean[...] = mean[part]
        layer.running_var[...] = var[part]
        first = part.stop
