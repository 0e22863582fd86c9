"""Predictions averaged over views: an image mirrored and moved says more than one look at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn import Module

Array = NDArray[Any]
View = tuple[float, Callable[[Array], Array]]  # its weight, and what makes it of images


def mirrored_and_moved(pixels: int = 1) -> list[View]:
    """Return six views: each image and its mirror, as they are and moved along a diagonal.

    Parameters
    ----------
    pixels : int
        How far up and left, and down and right; what comes in is the image reflected at its
        border.

    Returns
    -------
    list of (float, callable)
        Weights, which are a half for what is not moved and a quarter for each that is, and
        functions of images ``(N, H, W, C)``.

    Examples
    --------
    >>> weights, functions = zip(*mirrored_and_moved(), strict=True)
    >>> weights
    (0.25, 0.125, 0.125, 0.25, 0.125, 0.125)
    """

    def moved(by: int, mirror: bool) -> Callable[[Array], Array]:
        def view(images: Array) -> Array:
            images = images[:, :, ::-1] if mirror else images
            if not by:
                return images
            edge = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
            first, (height, width) = pixels + by, images.shape[1:3]
            padded = np.pad(images, edge, mode="reflect")
            return padded[:, first : first + height, first : first + width]

        return view

    shares = {0: 0.5, -pixels: 0.25, pixels: 0.25}
    return [
        (share / 2.0, moved(by, mirror)) for mirror in (False, True) for by, share in shares.items()
    ]


def predict_views(
    net: Module, images: Array, views: Sequence[View] | None = None, batch_size: int = 256
) -> Array:
    """Return the weighted sum of a network's outputs for some views of each image.

    Parameters
    ----------
    net : Module
    images : ndarray, shape (N, H, W, C)
    views : sequence of (float, callable), optional
        Weights and functions of a batch of images; by default `mirrored_and_moved`.
    batch_size : int

    Returns
    -------
    ndarray
        What ``net.predict`` would return for the images.

    Examples
    --------
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.Flatten())
    >>> image = np.arange(4.0, dtype=np.float32).reshape(1, 2, 2, 1)
    >>> predict_views(net, image)
    array([[1.5, 1.5, 1.5, 1.5]], dtype=float32)
    """
    views = mirrored_and_moved() if views is None else views
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        seen = [
            np.multiply(net.predict(np.ascontiguousarray(view(batch)), batch_size), weight)
            for weight, view in views
        ]
        parts.append(np.sum(seen, axis=0, dtype=seen[0].dtype))
    return np.concatenate(parts)
