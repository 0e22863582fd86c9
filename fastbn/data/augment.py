"""Augmentation: images changed at random, in a way that keeps what they show.

A function of augmentation is called as ``f(images, rng)`` with a batch ``(N, H, W, C)`` of float
and a `numpy.random.Generator`, and returns a batch. It may change the images it gets. The makers
here return such functions; any function of your own serves as well. One with an attribute
``located = True`` is called as ``f(images, rng, where)``, with the `fastbn.data.batches.Where` that
tells epoch and samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data.batches import Augment, Where, keyed

Images = NDArray[Any]
FLIPS = (0, 0, 0)  # the key of what is drawn once for all epochs


def flip(p: float = 0.5) -> Augment:
    """Mirror left and right.

    Parameters
    ----------
    p : float, default 0.5
        Share of the images that are mirrored.

    Returns
    -------
    callable

    Examples
    --------
    >>> image = np.arange(3.0).reshape(1, 1, 3, 1)
    >>> flip(1.0)(image, np.random.default_rng(0)).ravel()
    array([2., 1., 0.])
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"flip: p should be between 0 and 1, but got {p}")

    def apply(images: Images, rng: np.random.Generator) -> Images:
        _check(images, "flip")
        for image in np.flatnonzero(rng.random(len(images)) < p):
            images[image] = images[image, :, ::-1].copy()
        return images

    return apply


def alternating_flip() -> Augment:
    """Mirror a random half of the samples in every even epoch, and the others in every odd one.

    Two epochs then show every image both ways round, which `flip` does for half of them (Jordan
    2024, arXiv 2404.00498, section 3.6).

    Returns
    -------
    callable
        For data sets of known length: streams of batches do not tell which sample is which.

    Examples
    --------
    >>> from fastbn.data.batches import Batches
    >>> images = np.array([[[[0.0], [1.0]]]])  # one image of 1×2
    >>> batches = Batches(images, np.zeros(1), 1, rng=0, augment=alternating_flip())
    >>> sorted(x.ravel().tolist() for x, _ in (*batches.epoch(0), *batches.epoch(1)))
    [[0.0, 1.0], [1.0, 0.0]]
    """

    def apply(images: Images, rng: np.random.Generator, where: Where) -> Images:
        _check(images, "alternating_flip")
        drawn = keyed(where.seed, *FLIPS).random(where.count) < 0.5
        mirrored = drawn[where.index] == (where.epoch % 2 == 0)
        images[mirrored] = images[mirrored, :, ::-1]
        return images

    apply.located = True  # type: ignore[attr-defined]
    return apply


def shift(pixels: int | None = None, *, border: str = "reflect") -> Augment:
    """Move by whole pixels, up to `pixels` in each direction.

    Parameters
    ----------
    pixels : int, optional
        At most this many; by default a sixteenth of the shorter side, at least 1.
    border : {"reflect", "edge", "zero"}
        What comes in: the image mirrored at its border pixels, the border pixels, or zeros.

    Returns
    -------
    callable

    Examples
    --------
    >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> shift(1, border="zero")(image, np.random.default_rng(0))[0, :, :, 0]
    array([[3., 4., 5.],
           [6., 7., 8.],
           [0., 0., 0.]])
    """
    return _moved("shift", pixels, 16, border)


def crop(padding: int | None = None, *, border: str = "zero") -> Augment:
    """Cut the size of the image from the padded image, at a random place.

    Parameters
    ----------
    padding : int, optional
        Pixels on each side; by default an eighth of the shorter side, at least 1: the 4 of He et
        al. (2016), section 4.2, for CIFAR-10.
    border : {"zero", "reflect", "edge"}
        What the image is padded with.

    Returns
    -------
    callable

    Examples
    --------
    >>> image = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> crop(1)(image, np.random.default_rng(0))[0, :, :, 0]
    array([[3., 4., 5.],
           [6., 7., 8.],
           [0., 0., 0.]])
    """
    return _moved("crop", padding, 8, border)


def _moved(name: str, pixels: int | None, share: int, border: str) -> Augment:
    modes = {"reflect": "reflect", "edge": "edge", "zero": "constant"}
    if border not in modes:
        raise ValueError(f"{name}: border should be one of {', '.join(modes)}, but got {border!r}")
    if pixels is not None and pixels < 0:
        raise ValueError(f"{name}: expected pixels of 0 or more, but got {pixels}")

    def apply(images: Images, rng: np.random.Generator) -> Images:
        _check(images, name)
        count, height, width, channels = images.shape
        most = max(1, min(height, width) // share) if pixels is None else pixels
        if border == "reflect" and most >= min(height, width):
            raise ValueError(
                f"{name}: {most} pixels cannot be reflected from images of {height}×{width}"
            )
        padded = _padded(images, most, modes[border])
        places = rng.integers(0, 2 * most + 1, (count, 2)).tolist()
        # Pixels of a row lie side by side: one image is `height` copies of `width * channels`.
        lines = padded.reshape(count, height + 2 * most, -1)
        moved = np.empty_like(images).reshape(count, height, -1)
        for image, (row, column) in enumerate(places):
            first = column * channels
            moved[image] = lines[image, row : row + height, first : first + width * channels]
        return moved.reshape(images.shape)

    return apply


def _padded(images: Images, pixels: int, mode: str) -> Images:
    """``np.pad`` of height and width by `pixels`, without its cost a call for small images."""
    count, height, width, channels = images.shape
    shape = (count, height + 2 * pixels, width + 2 * pixels, channels)
    if mode == "constant":
        padded = np.zeros(shape, images.dtype)
        padded[:, pixels : pixels + height, pixels : pixels + width] = images
        return padded
    return np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)  # type: ignore[call-overload,no-any-return]


def cutout(size: int | None = None, *, fill: float = 0.0) -> Augment:
    """Blank a square around a random pixel, as much of it as lies inside the image.

    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout"
    (2017), section 3.2.

    Parameters
    ----------
    size : int, optional
        Side of the square; by default a quarter of the shorter side, at least 1.
    fill : float, default 0
        What it is blanked with: 0 is the mean of normalised images, and black of others.

    Returns
    -------
    callable

    Examples
    --------
    >>> image = np.ones((1, 4, 4, 1))
    >>> cutout(2)(image, np.random.default_rng(0))[0, :, :, 0]
    array([[1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [1., 0., 0., 1.],
           [1., 0., 0., 1.]])
    """
    if size is not None and size < 1:
        raise ValueError(f"cutout: size should be a positive integer, but got {size}")

    def apply(images: Images, rng: np.random.Generator) -> Images:
        _check(images, "cutout")
        count, height, width, _ = images.shape
        side = max(1, min(height, width) // 4) if size is None else size
        centres = rng.integers(0, (height, width), (count, 2)).tolist()
        for image, (row, column) in zip(images, centres, strict=True):
            top, left = row - side // 2, column - side // 2
            image[max(0, top) : top + side, max(0, left) : left + side] = fill
        return images

    return apply


def brightness(amount: float = 0.2, *, limits: tuple[float, float] | None = None) -> Augment:
    """Multiply each image by a number from ``[1 - amount, 1 + amount]``.

    Parameters
    ----------
    amount : float, default 0.2
        From 0 to 1.
    limits : (float, float), optional
        Values beyond are cut, as a camera cuts them: ``(0, 1)`` for images that are not
        normalised.

    Returns
    -------
    callable

    Examples
    --------
    >>> images = np.ones((3, 1, 1, 1))
    >>> brightness(0.5)(images, np.random.default_rng(0)).ravel().round(3)
    array([1.137, 0.77 , 0.541])
    """
    if not 0.0 <= amount <= 1.0:
        raise ValueError(f"brightness: amount should be between 0 and 1, but got {amount}")

    def apply(images: Images, rng: np.random.Generator) -> Images:
        _check(images, "brightness")
        factor = rng.uniform(1.0 - amount, 1.0 + amount, (len(images), 1, 1, 1))
        images *= factor.astype(images.dtype)
        return images if limits is None else np.clip(images, *limits, out=images)

    return apply


def compose(*functions: Augment) -> Augment:
    """Apply functions one after another, with one generator.

    Parameters
    ----------
    *functions : callable
        ``f(images, rng) -> images``.

    Returns
    -------
    callable

    Examples
    --------
    >>> both = compose(flip(), crop(4))
    >>> both(np.zeros((2, 32, 32, 3), np.float32), np.random.default_rng(0)).shape
    (2, 32, 32, 3)
    """

    def apply(images: Images, rng: np.random.Generator, *where: Where) -> Images:
        for function in functions:
            images = function(images, rng, *(where if is_located(function) else ()))
        return images

    apply.located = any(map(is_located, functions))  # type: ignore[attr-defined]
    return apply


def is_located(function: Augment) -> bool:
    """Tell whether a function asks for a `Where`.

    Examples
    --------
    >>> is_located(flip()), is_located(alternating_flip())
    (False, True)
    """
    return bool(getattr(function, "located", False))


def _check(images: Images, name: str) -> None:
    if images.ndim != 4:
        raise ValueError(f"{name}: expected images (N, H, W, C), got shape {images.shape}")
