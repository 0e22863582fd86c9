"""The network of the fastest known recipe for 94 % on CIFAR-10."""

from __future__ import annotations

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.models.registry import register
from fastbn.nn.init import Rng, dirac, generator


@register
def speedrun(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    *,
    channels: tuple[int, ...] = (64, 256, 256),
    activation: str = "gelu",
    dtype: DTypeLike = "float32",
    rng: Rng = None,
) -> nn.Sequential:
    """Return airbench94's network: whitening, three groups of two convolutions, a pool, one Linear.

    Jordan, "94 % on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), arXiv 2404.00498. Filters of
    a group begin as the identity as far as there are channels (`fastbn.nn.init.dirac`); γ of every
    BatchNorm is 1 and not trained. The first convolution begins at random here: the recipe gives it
    the filters of `fastbn.nn.init.whitening`, which need the images.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C); H and W of at least 2.
    classes : int
        Number of outputs.
    channels : tuple of int
        Of the groups, each of which begins with half the pixels.
    activation : {"gelu", "relu"}
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
        If `input_shape` is not that of an image, or there is no such activation.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.speedrun(rng=0)
    >>> [step.output_shape for step in net.trace((32, 32, 3))][-5:]
    [(3, 3, 256), (1, 1, 256), (256,), (10,), (10,)]
    """
    if len(input_shape) != 3 or min(input_shape[:2]) < 2:
        raise ValueError(
            "speedrun: input_shape should be (H, W, C) with H and W at least 2, "
            f"got {tuple(input_shape)}"
        )
    kinds = {"gelu": nn.GELU, "relu": nn.ReLU}
    if activation not in kinds:
        raise ValueError(f"speedrun: activation should be gelu or relu, got {activation!r}")
    act, rng = kinds[activation], generator(rng)

    def convolved(seen: int, count: int) -> list[nn.Module]:
        conv = nn.Conv2d(seen, count, 3, padding=1, bias=False, rng=rng, dtype=dtype)
        conv.weight.data = dirac(conv.weight.data)
        norm = nn.BatchNorm(count, eps=1e-12, momentum=0.4, dtype=dtype)
        assert norm.weight is not None
        norm.weight.requires_grad = False
        return [conv, norm, act()]

    height, width, seen = input_shape
    size, count = (height - 1, width - 1), 2 * 2 * 2 * seen
    layers: list[nn.Module] = [nn.Conv2d(seen, count, 2, rng=rng, dtype=dtype), act()]
    for outputs in channels:
        pool = (min(2, size[0]), min(2, size[1]))
        size = (size[0] // pool[0], size[1] // pool[1])
        conv, *rest = convolved(count, outputs)
        layers += [conv, nn.MaxPool2d(pool), *rest, *convolved(outputs, outputs)]
        count = outputs
    linear = nn.Linear(count, classes, bias=False, rng=rng, dtype=dtype)
    layers += [nn.MaxPool2d(size), nn.Flatten(), linear, nn.Scale(1 / 9)]
    return nn.Sequential(*layers).build(input_shape)
