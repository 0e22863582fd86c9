"""A small convolutional network: three convolutions with batch normalisation, two Linear."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, generator


@register
def convnet(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    *,
    channels: tuple[int, ...] = (32, 64, 64),
    hidden: int = 128,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return (Conv2d 3×3, BatchNorm, ReLU, MaxPool2d 2) three times, Flatten, and two Linear.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C); every pool halves H and W, which takes 2 ** len(channels) pixels.
    classes : int
        Number of outputs.
    channels : tuple of int
        Outputs of the convolutions.
    hidden : int
        Size of the Linear layer between convolutions and outputs.
    dtype : data-type
        float32 or float64.
    rng : numpy.random.Generator or int, optional
        Source of the initial weights.

    Returns
    -------
    Sequential

    Raises
    ------
    ValueError
        If `input_shape` is not that of an image, or of a too small one.

    Examples
    --------
    >>> from fastbn import models
    >>> models.convnet((32, 32, 3)).output_shape((32, 32, 3))
    (10,)
    """
    least = 2 ** len(channels)
    if len(input_shape) != 3 or min(input_shape[:2]) < least:
        raise ValueError(
            f"convnet: input_shape should be (H, W, C) with H and W at least {least}, "
            f"got {tuple(input_shape)}"
        )
    rng = generator(rng)
    layers: list[nn.Module] = []
    height, width, seen = input_shape
    for count in channels:
        layers += [
            nn.Conv2d(seen, count, 3, padding=1, rng=rng, dtype=dtype),
            nn.BatchNorm(count, dtype=dtype),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        height, width, seen = height // 2, width // 2, count
    layers += [
        nn.Flatten(),
        nn.Linear(height * width * seen, hidden, rng=rng, dtype=dtype),
        nn.ReLU(),
        nn.Linear(hidden, classes, rng=rng, dtype=dtype),
    ]
    return nn.Sequential(*layers).build(input_shape)
