"""Initial values of weights and biases: PyTorch's defaults, drawn from a NumPy generator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn.budgets import take_parameters
from fastbn.nn.parameter import Parameter

Rng = np.random.Generator | int | None


def generator(rng: Rng) -> np.random.Generator:
    """Return `rng` itself, or a generator seeded with it; None takes entropy from the system."""
    return np.random.default_rng(rng)


def fan_in_of(shape: tuple[int, ...]) -> int:
    """Return the number of inputs of one output: weight (out, in) or (out, in/groups, kh, kw)."""
    return math.prod(shape[1:])


def kaiming_uniform(
    shape: tuple[int, ...], *, a: float = math.sqrt(5.0), rng: Rng = None
) -> NDArray[np.float64]:
    """Draw a weight from U(-b, b) with b = sqrt(6 / ((1 + a²) fan_in)).

    He et al., "Delving Deep into Rectifiers" (2015), equation 14 with leaky slope `a`. PyTorch's
    default, a = √5, makes b = 1/√fan_in.

    Parameters
    ----------
    shape : tuple of int
        (out, in) or (out, in/groups, kh, kw).
    a : float, default √5
        Negative slope of the rectifier behind.
    rng : numpy.random.Generator or int, optional
        Source of the values.

    Returns
    -------
    ndarray of float64
        The same for every dtype a layer stores it in.

    Examples
    --------
    >>> w = kaiming_uniform((8, 100), rng=0)
    >>> w.shape, bool(abs(w).max() <= 0.1)
    ((8, 100), True)
    """
    take_parameters(shape)
    fan_in = fan_in_of(shape)
    bound = math.sqrt(6.0 / ((1.0 + a * a) * fan_in)) if fan_in else 0.0
    return generator(rng).uniform(-bound, bound, shape)


def bias_uniform(size: int, fan_in: int, *, rng: Rng = None) -> NDArray[np.float64]:
    """Draw a bias from U(-b, b) with b = 1/√fan_in, as PyTorch does.

    Parameters
    ----------
    size : int
        Number of outputs.
    fan_in : int
        Inputs of one output.
    rng : numpy.random.Generator or int, optional
        Source of the values.

    Returns
    -------
    ndarray of float64, shape (size,)

    Examples
    --------
    >>> bool(abs(bias_uniform(64, 25, rng=0)).max() <= 0.2)
    True
    """
    bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
    return generator(rng).uniform(-bound, bound, size)


def filters(
    shape: tuple[int, ...], outputs: int, bias: bool, rng: Rng, dtype: DTypeLike
) -> tuple[Parameter, Parameter | None]:
    """Return a convolution's weight, stored (kh, kw, I, O), and its bias if there is one."""
    rng = generator(rng)
    weight = Parameter(kaiming_uniform(shape, rng=rng), order=(2, 3, 1, 0), dtype=dtype)
    if not bias:
        return weight, None
    return weight, Parameter(bias_uniform(outputs, fan_in_of(shape), rng=rng), dtype=dtype)


def check_channels(layer: object, in_channels: int, out_channels: int, groups: int) -> None:
    """Raise TypeError or ValueError unless a convolution can have these channels and groups."""
    check_sizes(layer, in_channels=in_channels, out_channels=out_channels, groups=groups)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"{type(layer).__name__}: {name} must be divisible by groups")


def check_sizes(layer: object, **sizes: int) -> None:
    """Raise TypeError or ValueError, naming layer and argument, unless all are positive ints."""
    for name, size in sizes.items():
        if not hasattr(size, "__index__") or isinstance(size, bool):
            raise TypeError(f"{type(layer).__name__}: {name} should be an int, got {size!r}")
        if size < 1:
            raise ValueError(f"{type(layer).__name__}: {name} should be positive, got {size}")
        take_parameters((size,), count=False)
