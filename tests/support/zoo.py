"""The networks of `fastbn.models`, small enough for tests: arguments, and the least image."""

from __future__ import annotations

from typing import Any

from fastbn import models, nn

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "resnet50": {"width": 4},
    "wide_resnet50_2": {"width": 4},
    "vgg11_bn": {"width": 8, "hidden": 32, "dropout": 0.0},
    "vgg16_bn": {"width": 8, "hidden": 32, "dropout": 0.0},
    "mobilenet_v2": {"width": 0.25, "dropout": 0.0},
    "densenet121": {"growth": 4, "width": 8, "blocks": (2, 3, 2)},
    "efficientnet_lite0": {"width": 0.25, "dropout": 0.0},
    "shufflenet_v2": {"channels": (8, 8, 16, 32, 32), "blocks": (2, 3, 2)},
    "unet": {"width": 4, "depth": 2},
}
LEAST = {"vgg11_bn": 32, "vgg16_bn": 32, "densenet121": 13}


def small(name: str, shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """Build a network, a small one where there is a choice."""
    arguments = {**SMALL.get(name, {}), "input_shape": shape, "classes": classes, **options}
    return models.build(name, **arguments)


def takes(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a network can take such images."""
    return min(shape[:2]) >= LEAST.get(name, 1)


def answers(name: str, shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """Return the shape of one sample's output."""
    return (*shape[:2], classes) if name == "unet" else (classes,)
