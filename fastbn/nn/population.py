"""Statistics of a whole data set, for inference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.batchnorm import BatchNorm
from fastbn.nn.module import Module


def population_statistics(net: Module, batches: Iterable[NDArray[Any]]) -> int:
    """Set the running statistics of every BatchNorm to the average over the given mini-batches.

    Algorithm 2 of Ioffe & Szegedy (2015): after training, means and unbiased variances
    ``m / (m - 1) * var`` of the mini-batches are averaged, each batch counting the same. Unlike the
    moving average of training they belong to the final weights throughout. Layers other than
    BatchNorm run as in inference, so that dropout drops nothing; frozen layers keep what they have.

    Parameters
    ----------
    net : Module
        Its modes are as before afterwards; weights are not touched.
    batches : iterable of ndarray
        Inputs of the network, of two samples or more.

    Returns
    -------
    int
        How many batches there were.

    Raises
    ------
    ValueError
        If there is no batch, or no BatchNorm with running statistics that is not frozen. Whatever
        is raised, the statistics are as before.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.BatchNorm(1))
    >>> batches = np.array([[[1.0], [3.0]], [[5.0], [9.0]]], np.float32)
    >>> population_statistics(net, batches)
    2
    >>> net[0].running_mean, net[0].running_var
    (array([4.5], dtype=float32), array([5.], dtype=float32))
    """
    layers = [
        layer
        for layer in net.modules()
        if isinstance(layer, BatchNorm) and layer.track_running_stats and not layer.frozen
    ]
    if not layers:
        raise ValueError("there is no BatchNorm whose running statistics could be set")
    before = [
        (layer, layer.momentum, [buffer.copy() for _, buffer in layer.own_buffers()])
        for layer in layers
    ]
    modes = [(module, module.training) for module in net.modules()]
    count = 0
    try:
        net.eval()
        for layer in layers:
            layer.train()
            layer.momentum = None  # the average of all batches since the count was 0
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked[...] = 0
        for batch in batches:
            net(batch)
            count += 1
        if count == 0:
            raise ValueError("there are no batches to take statistics of")
    except BaseException:
        for layer, _, buffers in before:
            for (_, buffer), old in zip(layer.own_buffers(), buffers, strict=True):
                np.copyto(buffer, old)
        raise
    finally:
        for layer, momentum, _ in before:
            layer.momentum = momentum
        net.eval()  # and so that the next call is checked anew
        for module, training in modes:
            module.training = training
    return count
