"""U-Net: an encoder, a decoder, and a bridge between them at every size of the image."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import register
from fastbn.nn.init import Rng
from fastbn.nn.symbol import Symbol


def _double(draw: Drawing, x: Symbol, count: int, name: str) -> Symbol:
    """Return two 3×3 convolutions."""
    for number in range(2):
        x = draw.conv_norm(x, count, 3, (f"{name}.conv{number + 1}", f"{name}.bn{number + 1}"))
    return x


def _enlarged(draw: Drawing, x: Symbol, like: Symbol, name: str) -> Symbol:
    """Return a 2×2 transposed convolution to the size of `like`, which may be odd."""
    count = like.shape[-1]
    layer = nn.ConvTranspose2d(x.shape[-1], count, 2, 2, **draw.options)
    y = draw.named(name, layer, x)
    bottom, right = (a - b for a, b in zip(like.shape[:2], y.shape[:2], strict=True))
    return nn.ZeroPad2d((0, right, 0, bottom))(y) if bottom or right else y


@register
def unet(
    input_shape: tuple[int, ...] = (128, 128, 3),
    classes: int = 2,
    *,
    width: int = 16,
    depth: int = 3,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return a small U-Net, with batch normalisation: an image in, logits of every pixel out.

    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015),
    figure 1; the convolutions are padded, so that the output has the size of the image.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), H and W at least 2 ** depth.
    classes : int
        Outputs of every pixel.
    width : int
        Channels at the full size; doubled at every halving.
    depth : int
        How often the image is halved.
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
    >>> models.unet((50, 37, 1), 2, rng=0).output_shape((50, 37, 1))
    (50, 37, 2)
    """
    draw = Drawing("unet", input_shape, dtype, rng, least=2**depth)
    h, bridges = draw.input, []
    for level in range(depth):
        bridges.append(_double(draw, h, width * 2**level, f"down{level + 1}"))
        h = nn.MaxPool2d(2)(bridges[-1])
    h = _double(draw, h, width * 2**depth, "bottom")
    for level in reversed(range(depth)):
        up = _enlarged(draw, h, bridges[level], f"up{level + 1}.enlarge")
        h = _double(draw, nn.concat(bridges[level], up), width * 2**level, f"up{level + 1}")
    return draw.graph(draw.conv(h, classes, 1, "head", bias=True))
