"""A network of inception blocks, with batch normalisation or without, for small images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, generator

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Kind:
    """What stands after every convolution, and where weights come from."""

    norm: bool
    activation: str
    rng: np.random.Generator
    dtype: DTypeLike

    def convolved(self, seen: int, count: int, size: int, stride: int = 1) -> list[nn.Module]:
        """Return a convolution that keeps the image's size (up to its stride), and what follows."""
        conv = nn.Conv2d(
            seen,
            count,
            size,
            stride,
            size // 2,
            bias=not self.norm,
            rng=self.rng,
            dtype=self.dtype,
        )
        norm = [nn.BatchNorm(count, dtype=self.dtype)] if self.norm else []
        return [conv, *norm, ACTIVATIONS[self.activation]()]


def block(seen: int, width: int, pool: nn.Module, kind: Kind) -> nn.Concat:
    """Return the branches 1×1, 3×3, double 3×3 and pool, of `width` channels and 2·width.

    The figure of the paper: a 1×1 convolution in front of every 3×3 one, and after the pool.
    """
    conv = kind.convolved
    return nn.Concat(
        nn.Sequential(*conv(seen, width, 1)),
        nn.Sequential(*conv(seen, width, 1), *conv(width, 2 * width, 3)),
        nn.Sequential(
            *conv(seen, width, 1), *conv(width, 2 * width, 3), *conv(2 * width, 2 * width, 3)
        ),
        nn.Sequential(pool, *conv(seen, width, 1)),
    )


def reduction(seen: int, width: int, kind: Kind) -> nn.Concat:
    """Return the branches that halve the image: 3×3, double 3×3, and the pool by itself."""
    conv = kind.convolved
    return nn.Concat(
        nn.Sequential(*conv(seen, width, 1), *conv(width, 2 * width, 3, 2)),
        nn.Sequential(
            *conv(seen, width, 1), *conv(width, 2 * width, 3), *conv(2 * width, 2 * width, 3, 2)
        ),
        nn.MaxPool2d(3, 2, 1),
    )


@register
def inception(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    *,
    width: int = 16,
    stages: int = 3,
    norm: bool = True,
    activation: str = "relu",
    local_response: bool = False,
    dropout: float = 0.0,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return a network of inception blocks: two in a stage, a reduction between two stages.

    Ioffe & Szegedy, "Batch Normalization" (2015), appendix, for images of 28×28 or 32×32: the stem
    is one 3×3 convolution; the blocks are those of its figure 5, with average pools but for the
    last one. ``norm=False, local_response=True, dropout=0.4`` is the network without batch
    normalisation that the paper compares it with (Szegedy et al. 2014), in the same form.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C); every stage but the first halves H and W.
    classes : int
        Number of outputs.
    width : int
        Channels of a 1×1 branch in the first stage; doubled from stage to stage.
    stages : int
        Number of stages.
    norm : bool
        Whether there is a BatchNorm after every convolution; else that has a bias.
    activation : {"relu", "sigmoid"}
        What comes after each of them.
    local_response : bool
        Whether there is a LocalResponseNorm after the stem and after the first stage.
    dropout : float
        Share of the features in front of the last layer that training drops.
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
        If `input_shape` is not that of an image, or of a too small one, or there is no such
        activation.

    Examples
    --------
    >>> from fastbn import models, nn
    >>> net = models.inception(rng=0)
    >>> blocks = [step for step in net.trace((28, 28, 1)) if isinstance(step.layer, nn.Concat)]
    >>> [block.output_shape for block in blocks][:4]
    [(28, 28, 96), (28, 28, 96), (14, 14, 160), (14, 14, 192)]
    """
    least = 2 ** (stages - 1)
    if len(input_shape) != 3 or min(input_shape[:2]) < least:
        raise ValueError(
            f"inception: input_shape should be (H, W, C) with H and W at least {least}, "
            f"got {tuple(input_shape)}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"inception: activation should be {' or '.join(ACTIVATIONS)}, got {activation!r}"
        )
    kind = Kind(norm, activation, generator(rng), dtype)
    seen = 2 * width
    layers = kind.convolved(input_shape[-1], seen, 3)
    for stage in range(stages):
        if local_response and stage < 2:
            layers.append(nn.LocalResponseNorm(5))
        if stage > 0:
            layers.append(reduction(seen, width, kind))
            seen += 4 * width
            width *= 2
        for number in range(2):
            last = stage == stages - 1 and number == 1
            pool: nn.Module = nn.MaxPool2d(3, 1, 1) if last else nn.AvgPool2d(3, 1, 1)
            layers.append(block(seen, width, pool, kind))
            seen = 6 * width
    layers.append(nn.GlobalAvgPool2d())
    if dropout > 0.0:
        layers.append(nn.Dropout(dropout, rng=kind.rng))
    layers.append(nn.Linear(seen, classes, rng=kind.rng, dtype=dtype))
    return nn.Sequential(*layers).build(input_shape)
