"""MobileNetV2: inverted residuals with depthwise convolutions and linear bottlenecks."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import IMAGENET, published
from fastbn.nn.init import Rng
from fastbn.nn.symbol import Symbol

# Expansion, channels, blocks and the stride of the first of them: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def multiple_of_8(count: float) -> int:
    """Return the nearest multiple of 8, but not one that is more than a tenth smaller.

    Examples
    --------
    >>> multiple_of_8(24 * 0.75), multiple_of_8(24 * 0.5)
    (24, 16)
    """
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count else rounded


def _inverted_residual(
    draw: Drawing, x: Symbol, expansion: int, count: int, stride: int, name: str
) -> Symbol:
    """Return 1×1 up, 3×3 depthwise, 1×1 down; with the shortcut where the shapes agree."""
    h, step = x, 0
    inside = expansion * x.shape[-1]
    if expansion > 1:
        h = draw.conv_norm(h, inside, 1, (f"{name}.0.0", f"{name}.0.1"), nn.ReLU6)
        step = 1
    names = f"{name}.{step}.0", f"{name}.{step}.1"
    h = draw.conv_norm(h, inside, 3, names, nn.ReLU6, stride=stride, groups=inside)
    h = draw.conv_norm(h, count, 1, (f"{name}.{step + 1}", f"{name}.{step + 2}"), None)
    return nn.add(h, x) if stride == 1 and h.shape == x.shape else h


@published(IMAGENET)
def mobilenet_v2(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: float = 1.0,
    dropout: float = 0.2,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return MobileNetV2, with torchvision's names of the weights.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), table 2.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), of any size.
    classes : int
        Number of outputs.
    width : float
        Factor of all channels, which stay multiples of 8.
    dropout : float
        In front of the last layer.
    dtype : data-type
        float32 or float64.
    rng : numpy.random.Generator or int, optional
        Source of the initial weights.

    Returns
    -------
    Graph

    Raises
    ------
    ValueError
        If `input_shape` is not that of an image.

    Examples
    --------
    >>> from fastbn import models
    >>> sum(parameter.size for parameter in models.mobilenet_v2().parameters())
    3504872
    """
    draw = Drawing("mobilenet_v2", input_shape, dtype, rng)
    names = "features.0.0", "features.0.1"
    h = draw.conv_norm(draw.input, multiple_of_8(32 * width), 3, names, nn.ReLU6, stride=2)
    number = 1
    for expansion, count, blocks, first in STAGES:
        for block in range(blocks):
            name, stride = f"features.{number}.conv", first if block == 0 else 1
            h = _inverted_residual(draw, h, expansion, multiple_of_8(count * width), stride, name)
            number += 1
    last = multiple_of_8(1280 * max(1.0, width))
    names = f"features.{number}.0", f"features.{number}.1"
    h = nn.GlobalAvgPool2d()(draw.conv_norm(h, last, 1, names, nn.ReLU6))
    return draw.graph(draw.linear(draw.dropout(h, dropout), classes, "classifier.1"))
