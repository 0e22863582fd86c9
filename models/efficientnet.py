"""EfficientNet-Lite0: MobileNetV2's blocks, scaled, without squeeze-and-excitation."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.mobilenet import multiple_of_8
from fastbn.models.registry import published
from fastbn.nn.init import Rng
from fastbn.nn.symbol import Symbol

# Blocks, kernel size, stride of the first, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BYTES = ((127.0 / 255.0,) * 3, (128.0 / 255.0,) * 3)  # (byte - 127) / 128, of pixels in [0, 1]


def _same(
    draw: Drawing, x: Symbol, count: int, size: int, name: str, stride: int, groups: int = 1
) -> Symbol:
    """Return a convolution padded as TensorFlow pads: an odd row or column goes at the end."""
    if stride == 1:
        return draw.conv(x, count, size, name, groups=groups)
    totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:2]]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    if (top, left) == (bottom, right):
        return draw.conv(x, count, size, name, padding=(top, left), stride=stride, groups=groups)
    x = nn.ZeroPad2d((left, right, top, bottom))(x)
    return draw.conv(x, count, size, name, padding=0, stride=stride, groups=groups)


@published(BYTES)
def efficientnet_lite0(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: float = 1.0,
    dropout: float = 0.2,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return EfficientNet-Lite0, with the names that its port to PyTorch has for the weights.

    Tan & Le, "EfficientNet" (2019), table 1, as the Lite variant changes it: ReLU6, no
    squeeze-and-excitation, stem and head never scaled. Its BatchNorms have eps 1e-3 and momentum
    0.01. Published weights take bytes as (x - 127) / 128.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), of any size.
    classes : int
        Number of outputs.
    width : float
        Factor of the stages' channels, which stay multiples of 8.
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
    >>> sum(parameter.size for parameter in models.efficientnet_lite0().parameters())
    4652008
    """
    draw = Drawing("efficientnet_lite0", input_shape, dtype, rng, eps=1e-3, momentum=0.01)
    h = draw.norm(_same(draw, draw.input, 32, 3, "_conv_stem", 2), "_bn0", nn.ReLU6)
    number = 0
    for blocks, size, first, expansion, channels in STAGES:
        count = multiple_of_8(channels * width)
        for block in range(blocks):
            name, x, stride = f"_blocks.{number}", h, first if block == 0 else 1
            inside = expansion * x.shape[-1]
            if expansion > 1:
                names = f"{name}._expand_conv", f"{name}._bn0"
                h = draw.conv_norm(h, inside, 1, names, nn.ReLU6)
            h = _same(draw, h, inside, size, f"{name}._depthwise_conv", stride, groups=inside)
            h = draw.norm(h, f"{name}._bn1", nn.ReLU6)
            h = draw.conv_norm(h, count, 1, (f"{name}._project_conv", f"{name}._bn2"), None)
            if stride == 1 and h.shape == x.shape:
                h = nn.add(h, x)
            number += 1
    h = nn.GlobalAvgPool2d()(draw.conv_norm(h, 1280, 1, ("_conv_head", "_bn1"), nn.ReLU6))
    return draw.graph(draw.linear(draw.dropout(h, dropout), classes, "_fc"))
