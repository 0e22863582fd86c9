"""ShuffleNetV2: half of the channels pass a block unchanged, then all are shuffled."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import IMAGENET, published
from fastbn.nn.init import Rng
from fastbn.nn.symbol import Symbol


def _depthwise(draw: Drawing, x: Symbol, count: int, stride: int, name: str, first: int) -> Symbol:
    """Return a 3×3 depthwise convolution and a 1×1 one; layers are numbered from `first`."""
    a, b, c, d = (f"{name}.{first + place}" for place in range(4))
    h = draw.conv_norm(x, x.shape[-1], 3, (a, b), None, stride=stride, groups=x.shape[-1])
    return draw.conv_norm(h, count, 1, (c, d))


def _block(draw: Drawing, x: Symbol, count: int, stride: int, name: str) -> Symbol:
    """Return two branches side by side, shuffled; the first one is empty where the stride is 1."""
    half = count // 2
    if stride == 1:
        left, right = nn.Slice(0, half)(x), nn.Slice(half, count)(x)
    else:
        left, right = _depthwise(draw, x, half, stride, f"{name}.branch1", 0), x
    right = draw.conv_norm(right, half, 1, (f"{name}.branch2.0", f"{name}.branch2.1"))
    right = _depthwise(draw, right, half, stride, f"{name}.branch2", 3)
    y: Symbol = nn.ChannelShuffle(2)(nn.concat(left, right))
    return y


@published(IMAGENET)
def shufflenet_v2(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    channels: tuple[int, ...] = (24, 116, 232, 464, 1024),
    blocks: tuple[int, ...] = (4, 8, 4),
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return ShuffleNetV2 (1.0×), with torchvision's names of the weights.

    Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018),
    figure 3 and table 5.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), of any size.
    classes : int
        Number of outputs.
    channels : tuple of int
        Of the stem, the stages and the last convolution; those of the stages are even.
    blocks : tuple of int
        Blocks of the stages.
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
    >>> sum(parameter.size for parameter in models.shufflenet_v2().parameters())
    2278604
    """
    stem, *stages, last = channels
    draw = Drawing("shufflenet_v2", input_shape, dtype, rng)
    h = draw.conv_norm(draw.input, stem, 3, ("conv1.0", "conv1.1"), stride=2)
    h = nn.MaxPool2d(3, 2, 1)(h)
    for stage, (count, repeats) in enumerate(zip(stages, blocks, strict=True), 2):
        for block in range(repeats):
            h = _block(draw, h, count, 2 if block == 0 else 1, f"stage{stage}.{block}")
    h = nn.GlobalAvgPool2d()(draw.conv_norm(h, last, 1, ("conv5.0", "conv5.1")))
    return draw.graph(draw.linear(h, classes, "fc"))
