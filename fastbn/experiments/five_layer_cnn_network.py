"""The networks of ``five-layer-cnn``: without BN, with it, and with the tutorial's own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.experiments import sources
from fastbn.experiments.experiment import Claim, verdict
from fastbn.experiments.mistakes import SecondMomentNorm
from fastbn.nn.layerwise import outputs

Array = NDArray[Any]
SQUARES, ZERO_ONE = "mean of x² as variance", "γ = 0, β = 1 at first"
VARIANTS = ("no BN", "BN", SQUARES, ZERO_ONE)


def build(shape: tuple[int, ...], classes: int, variant: str, seed: int) -> nn.Sequential:
    """Return a network."""
    rng = np.random.default_rng(seed)

    def normalised(layer: nn.Module, features: int) -> list[nn.Module]:
        if variant == "no BN":
            return [layer, nn.ReLU()]
        norm = SecondMomentNorm(features) if variant == SQUARES else nn.BatchNorm(features)
        if variant == ZERO_ONE and isinstance(norm, nn.BatchNorm) and norm.weight and norm.bias:
            norm.weight.data[...], norm.bias.data[...] = 0, 1
        return [layer, norm, nn.ReLU()]

    convolutions = [
        *normalised(nn.Conv2d(shape[-1], 8, 5, padding=2, rng=rng), 8),
        *normalised(nn.Conv2d(8, 16, 4, stride=2, padding=1, rng=rng), 16),
        *normalised(nn.Conv2d(16, 24, 4, stride=2, padding=1, rng=rng), 24),
        nn.Flatten(),
    ]
    (features,) = nn.Sequential(*convolutions).output_shape(shape)
    dense = normalised(nn.Linear(features, 100, rng=rng), 100)
    return nn.Sequential(*convolutions, *dense, nn.Linear(100, classes, rng=rng))


def one_for_each_map() -> Claim:
    """Return what the networks say of γ and β."""
    net = build((28, 28, 1), 10, "BN", 0)
    pairs = [pair for pair in pairwise(net) if isinstance(pair[1], nn.BatchNorm)]
    sizes = [[p.size for layer in pair for p in layer.parameters()] for pair in pairs]
    _, maps, scales, offsets = zip(*sizes, strict=True)  # weight and bias; scale and offset
    return Claim(
        sources.TUTORIAL_C,
        "There is one γ and one β for each feature map.",
        verdict(maps == scales == offsets),
        f"So it is defined: {', '.join(map(str, scales[:-1]))} of each for as many maps of the "
        f"convolutions, and {scales[-1]} for as many units.",
    )


def normalised_variance(net: nn.Module, x: Array) -> float | None:
    """Return the mean variance of what leaves normalisations, before scale and offset."""
    found = [
        np.var(
            y / np.where(layer.weight.data, layer.weight.data, np.nan), axis=(*range(y.ndim - 1),)
        )
        for _, layer, y in outputs(net, x)
        if isinstance(layer, nn.BatchNorm | SecondMomentNorm) and layer.weight is not None
    ]
    return float(np.mean(np.concatenate(found))) if found else None
