"""Residual networks for small images."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, generator


@register
def resnet20(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    *,
    channels: tuple[int, ...] = (16, 32, 64),
    blocks: int = 3,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return ResNet-20 for CIFAR-10: a 3×3 convolution, nine residual blocks, one Linear.

    He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2. Where a stage
    begins with half the pixels and twice the channels, the shortcut is a projection (option B).

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), of any size: what is left of it is averaged.
    classes : int
        Number of outputs.
    channels : tuple of int
        Of the stages; from the second on, each begins with a stride of 2.
    blocks : int
        Residual blocks in a stage, of two convolutions each; 9 give ResNet-56.
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
        If `input_shape` is not that of an image.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.resnet20(rng=0)
    >>> sum(parameter.size for parameter in net.parameters())
    272474
    """
    if len(input_shape) != 3:
        raise ValueError(f"resnet20: input_shape should be (H, W, C), got {tuple(input_shape)}")
    rng = generator(rng)

    def convolved(seen: int, count: int, size: int, stride: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(seen, count, size, stride, size // 2, bias=False, rng=rng, dtype=dtype),
            nn.BatchNorm(count, dtype=dtype),
        ]

    seen = input_shape[-1]
    layers = [*convolved(seen, channels[0], 3), nn.ReLU()]
    seen = channels[0]
    for stage, count in enumerate(channels):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            body = nn.Sequential(
                *convolved(seen, count, 3, stride), nn.ReLU(), *convolved(count, count, 3)
            )
            shortcut = None
            if stride > 1 or seen != count:
                shortcut = nn.Sequential(*convolved(seen, count, 1, stride))
            layers.append(nn.Residual(body, shortcut))
            seen = count
    layers += [nn.GlobalAvgPool2d(), nn.Linear(seen, classes, rng=rng, dtype=dtype)]
    return nn.Sequential(*layers).build(input_shape)
