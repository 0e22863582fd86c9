"""restore_batch_norm: BatchNorms after convolutions that have none, with no change of function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastbn.functional import Moments, batch_moments, merge_moments
from fastbn.nn import layerwise
from fastbn.nn.batchnorm import BatchNorm
from fastbn.nn.concat import Concat
from fastbn.nn.containers import Residual, Sequential
from fastbn.nn.conv import Conv2d
from fastbn.nn.conv1d import Conv1d
from fastbn.nn.conv3d import Conv3d
from fastbn.nn.conv_transpose import ConvTranspose2d
from fastbn.nn.diagnose import batches_of
from fastbn.nn.graph import Graph
from fastbn.nn.module import Module

Array = NDArray[Any]
Net = TypeVar("Net", bound=Module)
CONVOLUTIONS = (Conv1d, Conv2d, Conv3d, ConvTranspose2d)


def restore_batch_norm(
    net: Net, data: Array | Sequence[Array], *, batch_size: int = 256, eps: float = 1e-5
) -> Net:
    """Put a BatchNorm after every convolution that has none; the network's function stays.

    For a file whose BatchNorms were folded away: they make fine-tuning work as training did. Mean
    and variance of every channel are taken from data and become the running statistics; weight and
    bias undo what they do, so that in inference the network gives what it gave, up to rounding. In
    training it normalises by the batch.

    It looks into Sequential, Graph, Residual and Concat. Layers keep their names, except after a
    new one in a Sequential, where names are positions, and in a branch of one convolution, which
    becomes a Sequential. In a Graph the BatchNorm of layer ``c`` is called ``c_bn``.

    Parameters
    ----------
    net : Module
        Changed in place; an optimizer is to be made afterwards.
    data : ndarray or sequence of ndarray
        Inputs such as the network is for, or batches of them; some hundred images are enough.
    batch_size : int
        Rows at a time, where `data` is one array.
    eps : float
        Of the BatchNorms.

    Returns
    -------
    Module
        The network itself.

    Raises
    ------
    ValueError
        If there is no data, or a convolution is the network itself. Nothing was changed then.

    Examples
    --------
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), nn.Conv2d(4, 2, 3, rng=1))
    >>> x = np.random.default_rng(2).standard_normal((8, 6, 6, 3)).astype(np.float32)
    >>> before = net.predict(x)
    >>> [type(layer).__name__ for layer in nn.restore_batch_norm(net, x)]
    ['Conv2d', 'BatchNorm', 'ReLU', 'Conv2d', 'BatchNorm']
    >>> bool(np.abs(net.predict(x) - before).max() < 1e-6)
    True
    """
    if isinstance(net, CONVOLUTIONS):
        raise ValueError(f"{net.where}: put the convolution into a Sequential first")
    bare = [conv for _, conv in _bare(net, followed=False)]
    norms = {
        conv: _undone(conv, moments, eps)
        for conv, moments in _output_moments(net, batches_of(data, batch_size), bare).items()
    }
    for module in [*net.modules()]:
        _insert(module, norms)
    net.adopt_children()
    net.invalidate_upwards()
    return net


def _starts_with_norm(module: Module) -> bool:
    return isinstance(next(module.chain(), None), BatchNorm)


def _bare(module: Module, *, followed: bool) -> Iterator[tuple[Module, Module]]:
    """Yield a container and a convolution in it that no BatchNorm follows.

    `followed` says whether one follows the module.
    """
    parts: list[tuple[Module, bool]] = []
    if isinstance(module, Sequential):
        layers = list(module)
        norms = [*map(_starts_with_norm, layers[1:]), followed]
        parts = [*zip(layers, norms, strict=True)]
    elif isinstance(module, Graph):
        read = {
            slot for layer, inputs in module.nodes if _starts_with_norm(layer) for slot in inputs
        }
        first = module.input_count
        parts = [(layer, first + k in read) for k, (layer, _) in enumerate(module.nodes)]
    elif isinstance(module, Residual | Concat):
        parts = [(layer, False) for _, layer in module.named_children()]
    for layer, norm in parts:
        if not isinstance(layer, CONVOLUTIONS):
            yield from _bare(layer, followed=norm)
        elif not norm:
            yield module, layer


def _output_moments(
    net: Module, batches: Sequence[Array], convolutions: Sequence[Module]
) -> dict[Module, Moments]:
    """Return mean and variance of what convolutions give in inference."""
    parts: dict[Module, list[Moments]] = {conv: [] for conv in convolutions}
    with net.evaluating():
        for batch in batches:
            if len(batch):
                for _, layer, _, y in layerwise.calls(net, batch):
                    if layer in parts:
                        parts[layer].append(batch_moments(y)[0])
    if not all(parts.values()):
        raise ValueError(f"{net.where}: there are no batches to take statistics of")
    return {conv: merge_moments(found) for conv, found in parts.items()}


def _undone(conv: Any, moments: Moments, eps: float) -> BatchNorm:
    """Return a BatchNorm of these statistics that changes nothing."""
    norm = BatchNorm(conv.out_channels, eps, dtype=conv.weight.data.dtype)
    assert norm.weight is not None
    assert norm.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean[...], norm.running_var[...] = moments.mean, moments.var
    norm.weight.data = np.sqrt(norm.running_var.astype(np.float64) + eps)
    norm.bias.data = norm.running_mean
    norm.num_batches_tracked[...] = 1
    norm.train(conv._training)
    return norm


def _insert(module: Module, norms: dict[Module, BatchNorm]) -> None:
    """Put BatchNorms after the convolutions that are a direct part of a container."""
    if isinstance(module, Sequential):
        for place, layer in reversed([*enumerate(module)]):
            if layer in norms:
                module.insert(place + 1, norms[layer])
    elif isinstance(module, Graph):
        module.insert_behind({c: norms[c] for c, _ in module.nodes if c in norms})
    elif isinstance(module, Residual | Concat):
        for name, layer in [*module.named_children()]:
            if layer in norms:
                module.disown(layer)
                branch = Sequential(layer, norms[layer])
                if isinstance(module, Concat):
                    module.branches[int(name)] = branch
                else:
                    setattr(module, name, branch)
