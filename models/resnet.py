"""Residual networks: for small images, and ResNet for photographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.drawing import Drawing
from fastbn.models.registry import IMAGENET, published, register
from fastbn.nn.init import Rng, generator
from fastbn.nn.symbol import Symbol


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


# --- ResNet for photographs -------------------------------------------------------------------


def basic(draw: Drawing, x: Symbol, count: int, stride: int, name: str, wide: int) -> Symbol:
    """Return two 3×3 convolutions."""
    h = draw.conv_norm(x, count, 3, (f"{name}.conv1", f"{name}.bn1"), stride=stride)
    return draw.conv_norm(h, count, 3, (f"{name}.conv2", f"{name}.bn2"), None)


def bottleneck(draw: Drawing, x: Symbol, count: int, stride: int, name: str, wide: int) -> Symbol:
    """Return 1×1, 3×3 with the stride, and 1×1 to four times the channels."""
    h = draw.conv_norm(x, wide * count, 1, (f"{name}.conv1", f"{name}.bn1"))
    h = draw.conv_norm(h, wide * count, 3, (f"{name}.conv2", f"{name}.bn2"), stride=stride)
    return draw.conv_norm(h, 4 * count, 1, (f"{name}.conv3", f"{name}.bn3"), None)


def _resnet(
    model: str, block: Any, blocks: tuple[int, ...], arguments: Mapping[str, Any], wide: int = 1
) -> nn.Graph:
    """Draw a network; `blocks` are those of the stages, `wide` is what widens bottlenecks."""
    draw = Drawing(model, arguments["input_shape"], arguments["dtype"], arguments["rng"])
    count = arguments["width"]
    h = draw.conv_norm(draw.input, count, 7, ("conv1", "bn1"), stride=2)
    h = nn.MaxPool2d(3, 2, 1)(h)
    for stage, repeats in enumerate(blocks):
        for number in range(repeats):
            name = f"layer{stage + 1}.{number}"
            stride = 2 if stage > 0 and number == 0 else 1
            body, shortcut = block(draw, h, count, stride, name, wide), h
            if body.shape != h.shape:
                names = f"{name}.downsample.0", f"{name}.downsample.1"
                shortcut = draw.conv_norm(h, body.shape[-1], 1, names, None, stride=stride)
            h = nn.ReLU()(nn.add(body, shortcut))
        count *= 2
    return draw.graph(draw.linear(nn.GlobalAvgPool2d()(h), arguments["classes"], "fc"))


@published(IMAGENET)
def resnet18(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return ResNet-18, with torchvision's names of the weights.

    He et al., "Deep Residual Learning for Image Recognition" (2016), table 1. `resnet34` has more
    such blocks; `resnet50` has bottlenecks, whose stride is that of the 3×3 convolution, and
    `wide_resnet50_2` twice the channels in them (Zagoruyko & Komodakis, 2016). They take the same
    arguments.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C), of any size.
    classes : int
        Number of outputs.
    width : int
        Channels of the first stage.
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
    >>> net = models.resnet18(width=8, classes=10, rng=0)
    >>> net.output_shape((64, 48, 3)), list(net.state_dict())[-2:]
    ((10,), ['fc.weight', 'fc.bias'])
    """
    return _resnet("resnet18", basic, (2, 2, 2, 2), locals())


@published(IMAGENET)
def resnet34(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return ResNet-34; see `resnet18`.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.resnet34(width=8, classes=10, rng=0)
    >>> sum(parameter.size for parameter in net.parameters())
    336114
    """
    return _resnet("resnet34", basic, (3, 4, 6, 3), locals())


@published(IMAGENET)
def resnet50(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return ResNet-50; see `resnet18`.

    Examples
    --------
    >>> from fastbn import models
    >>> models.resnet50(width=8, classes=10, rng=0).state_dict()["fc.weight"].shape
    (10, 256)
    """
    return _resnet("resnet50", bottleneck, (3, 4, 6, 3), locals())


@published(IMAGENET)
def wide_resnet50_2(
    input_shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    *,
    width: int = 64,
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Graph:
    """Return Wide ResNet-50-2; see `resnet18`.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.wide_resnet50_2(width=8, classes=10, rng=0)
    >>> net.state_dict()["layer1.0.conv2.weight"].shape
    (16, 16, 3, 3)
    """
    return _resnet("wide_resnet50_2", bottleneck, (3, 4, 6, 3), locals(), wide=2)
