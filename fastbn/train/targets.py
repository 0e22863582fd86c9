"""Numbers to predict, normalised for training, and brought back into their own unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Dataset, Normalization
from fastbn.nn import Linear, Module
from fastbn.train.evaluation import Metric
from fastbn.train.metrics import mae

Array = NDArray[Any]


def normalized(data: Dataset) -> tuple[Dataset, Normalization]:
    """Return data whose targets are ``(y - mean) / std`` of the training part, and these two."""
    fitted = Normalization.fit(data.y_train)
    y_train, y_test = fitted.apply(data.y_train), fitted.apply(data.y_test)
    y_val = None if data.y_val is None else fitted.apply(data.y_val)
    return replace(data, y_train=y_train, y_val=y_val, y_test=y_test), fitted


def mae_in_unit(targets: Normalization) -> Metric:
    """Return the mean absolute error in the targets' own unit, as a metric of normalised ones."""

    def measure(pred: Array, target: Array) -> float:
        return mae(pred * targets.std, target * targets.std)

    measure.__name__ = mae.__name__
    return measure


def last_linear(net: Module) -> Linear | None:
    """Return the Linear that a built network ends in, if it does."""
    *_, (layer, _, shape) = net.trace_built()
    if not isinstance(layer, Linear) or layer.bias is None:
        return None
    return layer if net.output_shape(net.input_shape) == shape else None


def into_unit(net: Module, targets: Normalization) -> None:
    """Let the last Linear take over the scale of the targets, in float64.

    Raises
    ------
    ValueError
        If the network does not end in a Linear of as many outputs, with a bias.
    """
    layer = last_linear(net)
    if layer is None or layer.bias is None or layer.out_features != len(targets.mean):
        raise ValueError(
            f"targets were normalised, and the network does not end in a Linear with bias of "
            f"{len(targets.mean)} outputs that could undo it"
        )
    weight, bias = (np.asarray(p.data, np.float64) for p in (layer.weight, layer.bias))
    layer.weight.data = weight * targets.std[:, None]
    layer.bias.data = bias * targets.std + targets.mean
