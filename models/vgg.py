"""VGG with batch normalisation: 3×3 convolutions, five pools, three Linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import IMAGENET, published
from fastbn.nn.init import Rng

GRID = 7  # rows and columns that the features are averaged to
STAGES = (1, 2, 4, 8, 8)  # channels, in units of the first stage's


def _vgg(model: str, convolutions: tuple[int, ...], arguments: Mapping[str, Any]) -> nn.Graph:
    """Draw a network with so many convolutions in front of each pool."""
    shape, hidden, p = (arguments[name] for name in ("input_shape", "hidden", "dropout"))
    draw = Drawing(model, shape, arguments["dtype"], arguments["rng"], least=32)
    h, number = draw.input, 0
    for factor, count in zip(STAGES, convolutions, strict=True):
        for _ in range(count):
            names = f"features.{number}", f"features.{number + 1}"
            h = draw.conv_norm(h, factor * arguments["width"], 3, names, bias=True)
            number += 3
        h, number = nn.MaxPool2d(2)(h), number + 1
    h = nn.Flatten()(nn.AdaptiveAvgPool2d(GRID)(h))
    for number in (0, 3):
        h = draw.dropout(nn.ReLU()(draw.linear(h, hidden, f"classifier.{number}")), p)
    return draw.graph(draw.linear(h, arguments["classes"], "classifier.6"))


@published(IMAGENET)
def vgg11_bn(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return VGG-11 with BatchNorm, with torchvision's names of the weights.

    Simonyan & Zisserman, "Very Deep Convolutional Networks" (2015), column A of table 1;
    `vgg16_bn` is its column D and takes the same arguments.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), H and W at least 32.
    classes : int
        Number of outputs.
    width : int
        Channels of the first stage.
    hidden : int
        Size of the two Linear layers in front of the last.
    dropout : float
        After each of them.
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
    >>> models.vgg11_bn((32, 32, 3), 10, width=8, hidden=16).output_shape((32, 32, 3))
    (10,)
    """
    return _vgg("vgg11_bn", (1, 1, 2, 2, 2), locals())


@published(IMAGENET)
def vgg16_bn(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return VGG-16 with BatchNorm; see `vgg11_bn`.

    Examples
    --------
    >>> from fastbn import models
    >>> models.vgg16_bn((32, 32, 3), 10, width=8, hidden=16).output_shape((32, 32, 3))
    (10,)
    """
    return _vgg("vgg16_bn", (2, 2, 3, 3, 3), locals())
