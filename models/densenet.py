"""DenseNet: every layer of a block sees what all layers before it made."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import IMAGENET, published
from fastbn.nn.init import Rng

BOTTLENECK = 4  # channels between the two convolutions of a layer, in units of the growth


@published(IMAGENET)
def densenet121(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    growth: int = 32,
    width: int = 64,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return DenseNet-121, with torchvision's names of the weights.

    Huang et al., "Densely Connected Convolutional Networks" (2017), table 1. BatchNorm and ReLU
    stand in front of the convolutions; between two blocks channels and pixels are halved.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), H and W at least 29.
    classes : int
        Number of outputs.
    growth : int
        Channels that a layer adds.
    width : int
        Channels of the stem.
    blocks : tuple of int
        Layers of the blocks.
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
        If `input_shape` is not that of an image, or of a too small one.

    Examples
    --------
    >>> from fastbn import models
    >>> sum(parameter.size for parameter in models.densenet121().parameters())
    7978856
    """
    least = 2 ** (len(blocks) + 1) - 3  # one pixel is left behind the last transition
    draw = Drawing("densenet121", input_shape, dtype, rng, least=least)
    h = draw.conv_norm(draw.input, width, 7, ("features.conv0", "features.norm0"), stride=2)
    h = nn.MaxPool2d(3, 2, 1)(h)
    for block, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            new = draw.norm(h, f"{name}.norm1")
            names = f"{name}.conv1", f"{name}.norm2"
            new = draw.conv_norm(new, BOTTLENECK * growth, 1, names)
            h = nn.concat(h, draw.conv(new, growth, 3, f"{name}.conv2"))
        if block < len(blocks):
            name = f"features.transition{block}"
            h = draw.conv(draw.norm(h, f"{name}.norm"), h.shape[-1] // 2, 1, f"{name}.conv")
            h = nn.AvgPool2d(2)(h)
    h = nn.GlobalAvgPool2d()(draw.norm(h, f"features.norm{len(blocks) + 1}"))
    return draw.graph(draw.linear(h, classes, "classifier"))
