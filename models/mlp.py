"""The multi-layer perceptron of the tutorials: two hidden layers, each with batch normalisation."""

from __future__ import annotations

import math

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, generator


@register
def mlp(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    *,
    hidden: tuple[int, ...] = (128, 64),
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return Flatten, (Linear, BatchNorm, ReLU) for every hidden layer, and Linear.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    classes : int
        Number of outputs.
    hidden : tuple of int
        Sizes of the hidden layers.
    dtype : data-type
        float32 or float64.
    rng : numpy.random.Generator or int, optional
        Source of the initial weights.

    Returns
    -------
    Sequential

    Examples
    --------
    >>> from fastbn import models
    >>> sum(parameter.size for parameter in models.mlp().parameters())
    109770
    """
    rng = generator(rng)
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(input_shape)
    for size in hidden:
        layers += [
            nn.Linear(features, size, rng=rng, dtype=dtype),
            nn.BatchNorm(size, dtype=dtype),
            nn.ReLU(),
        ]
        features = size
    layers.append(nn.Linear(features, classes, rng=rng, dtype=dtype))
    return nn.Sequential(*layers).build(input_shape)
