"""What a data set's statistics are, and how far those that inference uses are from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.functional import Moments, batch_moments, merge_moments
from fastbn.nn import layerwise
from fastbn.nn.batchnorm import BatchNorm
from fastbn.nn.module import Module

Array = NDArray[Any]


def batches_of(data: Array | Sequence[Array], batch_size: int) -> Sequence[Array]:
    """Return the batches that `data` is, or parts of one array."""
    if isinstance(data, np.ndarray):
        return [data[i : i + batch_size] for i in range(0, len(data), batch_size)]
    return data


def _tracking(net: Module) -> dict[Module, str]:
    found: dict[Module, str] = {
        layer: name
        for name, layer in net.named_modules()
        if isinstance(layer, BatchNorm) and layer.running_mean is not None
    }
    if not found:
        raise ValueError(f"{net.where}: there is no BatchNorm with running statistics")
    return found


def _moments(
    net: Module, batches: Sequence[Array], wanted: Iterable[Module]
) -> dict[Module, Moments]:
    """Return the moments of all that reaches some layers in inference, in the layers' order."""
    parts: dict[Module, list[Moments]] = {layer: [] for layer in wanted}
    with net.evaluating():
        for batch in batches:
            for _, layer, inputs, _ in layerwise.calls(net, batch):
                if layer in parts:
                    parts[layer].append(batch_moments(inputs[0])[0])
    if not all(parts.values()):
        raise ValueError(f"{net.where}: there are no batches to take statistics of")
    return {layer: merge_moments(found) for layer, found in parts.items()}


def _distance(layer: BatchNorm, moments: Moments) -> float:
    """Return how far the running statistics are from these: the worst shift or ratio."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    std = np.sqrt(moments.var + layer.eps)
    offset = np.abs(layer.running_mean - moments.mean) / std
    ratio = np.abs(np.log(np.sqrt(layer.running_var + layer.eps) / std))
    return float(max(offset.max(), np.expm1(ratio.max())))


def recalibrate(
    net: Module,
    data: Array | Sequence[Array],
    *,
    batch_size: int = 256,
    at_once: bool = False,
) -> dict[str, float]:
    """Set the running statistics of every BatchNorm to those of the data.

    Means and unbiased variances are exact: the moments of all batches are merged, whatever their
    sizes. A layer sees what the layers in front of it give in inference, so they are set one by
    one, a pass over the data each. `at_once` takes one pass for all, in which layers still see what
    the old statistics in front of them give. Frozen layers keep what they have.

    Parameters
    ----------
    net : Module
    data : ndarray or sequence of ndarray
        Inputs, or batches of them, which are gone through once for a layer.
    batch_size : int
        Rows at a time, where `data` is one array.
    at_once : bool

    Returns
    -------
    dict of str to float
        For every layer, how far its old statistics were off: the largest shift of a mean in
        standard deviations, or the largest relative error of a standard deviation.

    Raises
    ------
    ValueError
        If there is no BatchNorm with running statistics, or no data. Nothing was changed then.

    Examples
    --------
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.BatchNorm(1))
    >>> moved = recalibrate(net, np.array([[1.0], [3.0], [5.0]], np.float32))
    >>> net[0].running_mean, net[0].running_var
    (array([3.], dtype=float32), array([4.], dtype=float32))
    """
    layers = {layer: name for layer, name in _tracking(net).items() if not layer.frozen}  # type: ignore[attr-defined]
    batches = batches_of(data, batch_size)
    first = _moments(net, batches[:1], layers)  # refuses before anything is changed
    if any(moments.count < 2 for moments in first.values()) and len(batches) == 1:
        raise ValueError(f"{net.where}: one value of a channel has no variance")
    moved: dict[str, float] = {}
    passes = [list(layers)] if at_once else [[layer] for layer in layers]
    for wanted in passes:
        for layer, moments in _moments(net, batches, wanted).items():
            assert isinstance(layer, BatchNorm)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            moved[layers[layer]] = _distance(layer, moments)
            layer.running_mean[...] = moments.mean
            layer.running_var[...] = moments.unbiased_var
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked[...] = max(1, int(layer.num_batches_tracked))
    return moved


@dataclass(frozen=True)
class Diagnosis:
    """What is to be said of one BatchNorm.

    Attributes
    ----------
    name : str
        Its path in the network.
    shift : float
        Largest difference between a running mean and the data's, in standard deviations.
    spread : float
        Largest ratio, up or down, between a running standard deviation and the data's.
    gap : float
        Root mean square of the difference between its outputs in training and in inference.
    dead : int
        Channels without variance in the data.
    faint : int
        Channels whose |weight| is below 1e-3.
    """

    name: str
    shift: float
    spread: float
    gap: float
    dead: int
    faint: int


class Diagnoses(list[Diagnosis]):
    """A `Diagnosis` for every BatchNorm; printed as a table."""

    def __str__(self) -> str:
        lines = [f"{'BatchNorm':20} {'shift':>9} {'spread':>9} {'gap':>9} {'dead':>5} {'faint':>5}"]
        lines += [
            f"{d.name or '(net)':20} {d.shift:9.3g} {d.spread:9.3g} {d.gap:9.3g} "
            f"{d.dead:5} {d.faint:5}"
            for d in self
        ]
        return "\n".join(lines)


def diagnose(net: Module, data: Array | Sequence[Array], *, batch_size: int = 256) -> Diagnoses:
    """Return for every BatchNorm how far inference is from the data, and which channels idle.

    Parameters
    ----------
    net : Module
        It stays as it is.
    data : ndarray or sequence of ndarray
        Inputs, or batches of them.
    batch_size : int
        Rows at a time, where `data` is one array.

    Returns
    -------
    Diagnoses
        A list of `Diagnosis` that prints as a table.

    Raises
    ------
    ValueError
        If there is no BatchNorm with running statistics, or no data.

    Examples
    --------
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.BatchNorm(1))
    >>> [layer] = diagnose(net, np.array([[1.0], [3.0], [5.0]], np.float32))
    >>> round(layer.shift, 2), round(layer.spread, 2), layer.dead
    (1.84, 1.63, 0)
    """
    layers = _tracking(net)
    found = Diagnoses()
    for layer, moments in _moments(net, batches_of(data, batch_size), layers).items():
        assert isinstance(layer, BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        std, running = np.sqrt(moments.var + layer.eps), np.sqrt(layer.running_var + layer.eps)
        shift = (moments.mean - layer.running_mean) / running
        gamma = np.ones(layer.num_features) if layer.weight is None else layer.weight.data
        # y of training minus y of inference, as a line in xhat: its mean and variance over the data
        slope, offset = gamma * (1.0 - std / running), -gamma * shift
        gap = np.sqrt(np.mean(slope**2 * moments.var / std**2 + offset**2))
        found.append(
            Diagnosis(
                layers[layer],
                float(np.max(np.abs(moments.mean - layer.running_mean) / std)),
                float(np.exp(np.abs(np.log(running / std)).max())),
                float(gap),
                int((moments.var <= 1e-12 * (1.0 + moments.mean**2)).sum()),
                int((np.abs(gamma) < 1e-3).sum()),
            )
        )
    return found
