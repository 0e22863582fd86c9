"""The factories of this package by name, and what a network remembers of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fastbn.nn import Module

P = ParamSpec("P")
M = TypeVar("M", bound=Module)

Pixels = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, of pixels in [0, 1]

_factories: dict[str, Callable[..., Module]] = {}
_published: dict[str, Pixels] = {}

# What torchvision's weights expect of pixels.
IMAGENET: Pixels = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Arguments of a factory that say how the weights begin, not what the network is.
_NOT_ARCHITECTURE = ("rng",)


def register(factory: Callable[P, M]) -> Callable[P, M]:
    """Register a factory under its own name; its networks remember name and arguments.

    They do so in ``net.factory``, from which `fastbn.train.save` writes them into the file.

    Parameters
    ----------
    factory : callable
        Takes `input_shape` and `classes` first, arguments of JSON's types otherwise, and ``rng``.

    Returns
    -------
    callable
        To be used in its place.

    Examples
    --------
    >>> from fastbn import models
    >>> models.mlp((4,), 3, hidden=[8]).factory  # @register stands before `def mlp`
    ('mlp', {'input_shape': (4,), 'classes': 3, 'hidden': [8], 'dtype': 'float32'})
    """
    name = factory.__name__
    signature = inspect.signature(factory)

    @wraps(factory)
    def build_and_remember(*args: P.args, **kwargs: P.kwargs) -> M:
        net = factory(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {k: v for k, v in bound.arguments.items() if k not in _NOT_ARCHITECTURE}
        if "dtype" in arguments:
            arguments["dtype"] = str(net.dtype)
        net.factory = (name, arguments)
        return net

    _factories[name] = build_and_remember
    return build_and_remember


def published(pixels: Pixels) -> Callable[[Callable[P, M]], Callable[P, M]]:
    """Return what registers a factory whose keys are those of weights that PyTorch users publish.

    Parameters
    ----------
    pixels : (mean, std)
        What such weights expect: (x - mean) / std of pixels in [0, 1].
    """

    def decorate(factory: Callable[P, M]) -> Callable[P, M]:
        _published[factory.__name__] = pixels
        return register(factory)

    return decorate


def pixels_of(name: str | None) -> Pixels | None:
    """Return (mean, std) of the pixels that a model's published weights expect; None without any.

    Examples
    --------
    >>> from fastbn import models
    >>> models.pixels_of("efficientnet_lite0")[0][0]  # 127 / 255
    0.4980392156862745
    """
    return None if name is None else _published.get(name)


def names() -> list[str]:
    """Return the names of all models.

    Examples
    --------
    >>> from fastbn import models
    >>> {"convnet", "mlp"} <= set(models.names())
    True
    """
    return sorted(_factories)


def build(name: str, /, **arguments: Any) -> Module:
    """Build a network by the name of its factory.

    Parameters
    ----------
    name : str
        One of `names`.
    **arguments
        Those of the factory. Lists will do for tuples, as JSON has no tuples.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If there is no such model, or it takes no such argument.

    Examples
    --------
    >>> from fastbn import models
    >>> net = models.build("mlp", input_shape=[8, 8, 1], classes=10, rng=0)
    >>> net.factory[0], net.factory[1]["input_shape"]
    ('mlp', (8, 8, 1))
    """
    if name not in _factories:
        raise ValueError(f"there is no model {name!r}; the models are {', '.join(names())}")
    factory = _factories[name]
    given: Mapping[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()
    }
    known = inspect.signature(factory).parameters
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"model {name!r} takes no argument {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    return factory(**given)
