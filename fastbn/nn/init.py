"""Initial values of weights and biases: PyTorch's defaults, drawn from a NumPy generator."""

from __future__ import annotations

import math
from typing import Any

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
        Negative slope of the rectifier that follows.
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


def dirac(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a convolution's weight whose first filters hand on the channels as they are.

    Parameters
    ----------
    weight : ndarray, shape (O, I, kh, kw)
        Odd kernels, as for a convolution that keeps the size.

    Returns
    -------
    ndarray
        A copy with the identity in the first min(O, I) filters (Zagoruyko & Komodakis 2017,
        "DiracNets"); the others stay.

    Examples
    --------
    >>> dirac(np.full((2, 1, 1, 3), 0.5)).reshape(2, 3)
    array([[0. , 1. , 0. ],
           [0.5, 0.5, 0.5]])
    """
    made = np.array(weight)
    count, (kh, kw) = min(weight.shape[:2]), weight.shape[2:]
    made[:count] = 0.0
    made[np.arange(count), np.arange(count), kh // 2, kw // 2] = 1.0
    return made


def whitening(
    images: NDArray[Any], kernel_size: int = 2, *, eps: float = 5e-4
) -> NDArray[np.float64]:
    """Return the filters that whiten the patches of images, and their negatives.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
    kernel_size : int
        Side k of a patch.
    eps : float
        Added to the eigenvalues, so that directions without variance stay small.

    Returns
    -------
    ndarray of float64, shape (2·C·k², C, k, k)
        ``±v / √(λ + eps)`` for every eigenvector v and eigenvalue λ, largest first, of the patches'
        second moments (Page 2019, "How to train your ResNet"; Jordan 2024, arXiv 2404.00498).

    Examples
    --------
    >>> images = np.random.default_rng(0).standard_normal((8, 6, 6, 1))
    >>> whitening(images).shape
    (8, 1, 2, 2)
    """
    k = kernel_size
    if images.ndim != 4 or min(images.shape[1:3]) < k or not len(images):
        raise ValueError(f"whitening: expected images of {k}×{k} or more, got {images.shape}")
    windows = np.lib.stride_tricks.sliding_window_view(images, (k, k), axis=(1, 2))
    patches = windows.reshape(-1, images.shape[3] * k * k)  # (patches, C·k·k)
    moments = np.zeros((patches.shape[1],) * 2)
    for part in np.array_split(patches, max(1, len(patches) // 100_000)):
        wide = part.astype(np.float64)
        moments += wide.T @ wide
    values, vectors = np.linalg.eigh(moments / len(patches))
    scaled = (vectors / np.sqrt(values + eps)).T[::-1]
    return np.concatenate([scaled, -scaled]).reshape(-1, images.shape[3], k, k)


def filters(
    shape: tuple[int, ...], outputs: int, bias: bool, rng: Rng, dtype: DTypeLike
) -> tuple[Parameter, Parameter | None]:
    """Return a convolution's weight, stored (kh, kw, I, O), and its bias if there is one."""
    rng = generator(rng)
    weight = Parameter(
        kaiming_uniform(shape, rng=rng), order=(*range(2, len(shape)), 1, 0), dtype=dtype
    )
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
