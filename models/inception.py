"""A network of inception blocks with batch normalisation, for small images."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, generator


def convolved(
    seen: int,
    count: int,
    size: int,
    stride: int = 1,
    *,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> list[nn.Module]:
    """Return a convolution that keeps the image's size (up to its stride), BatchNorm, ReLU."""
    return [
        nn.Conv2d(seen, count, size, stride, size // 2, bias=False, rng=rng, dtype=dtype),
        nn.BatchNorm(count, dtype=dtype),
        nn.ReLU(),
    ]


def block(
    seen: int, width: int, *, pool: nn.Module, rng: np.random.Generator, dtype: DTypeLike
) -> nn.Concat:
    """Return the branches 1×1, 3×3, double 3×3 and pool, of `width` channels and 2·width.

    The figure of the paper: a 1×1 convolution in front of every 3×3 one, and behind the pool.
    """

    def conv(inputs: int, count: int, size: int) -> list[nn.Module]:
        return convolved(inputs, count, size, rng=rng, dtype=dtype)

    return nn.Concat(
        nn.Sequential(*conv(seen, width, 1)),
        nn.Sequential(*conv(seen, width, 1), *conv(width, 2 * width, 3)),
        nn.Sequential(
            *conv(seen, width, 1), *conv(width, 2 * width, 3), *conv(2 * width, 2 * width, 3)
        ),
        nn.Sequential(pool, *conv(seen, width, 1)),
    )


def reduction(seen: int, width: int, *, rng: np.random.Generator, dtype: DTypeLike) -> nn.Concat:
    """Return the branches that halve the image: 3×3, double 3×3, and the pool by itself."""

    def conv(inputs: int, count: int, size: int, stride: int = 1) -> list[nn.Module]:
        return convolved(inputs, count, size, stride, rng=rng, dtype=dtype)

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
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return a network of inception blocks: two in a stage, a reduction between two stages.

    Ioffe & Szegedy, "Batch Normalization" (2015), appendix, for images of 28×28: the stem is one
    3×3 convolution; the blocks are those of its figure 5, with average pools but for the last one.

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
    rng = generator(rng)
    seen = 2 * width
    layers = convolved(input_shape[-1], seen, 3, rng=rng, dtype=dtype)
    for stage in range(stages):
        if stage > 0:
            layers.append(reduction(seen, width, rng=rng, dtype=dtype))
            seen += 4 * width
            width *= 2
        for number in range(2):
            last = stage == stages - 1 and number == 1
            pool: nn.Module = nn.MaxPool2d(3, 1, 1) if last else nn.AvgPool2d(3, 1, 1)
            layers.append(block(seen, width, pool=pool, rng=rng, dtype=dtype))
            seen = 6 * width
    layers += [nn.GlobalAvgPool2d(), nn.Linear(seen, classes, rng=rng, dtype=dtype)]
    return nn.Sequential(*layers).build(input_shape)
