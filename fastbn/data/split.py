"""Cutting samples in two: by seed, and with the same share of every class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TEST_FRACTION = 0.2


class Split(NamedTuple):
    """Which share of the samples is kept for testing, and the seed of the choice."""

    fraction: float = TEST_FRACTION
    seed: int = 0


def as_split(value: Any) -> Split:
    """Return what ``split=`` of `fastbn.data.load` means: a fraction, a seed, or both.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    match value:
        case bool():
            pass
        case int() if value >= 0:
            return Split(seed=value)
        case float() if 0.0 < value < 1.0:
            return Split(value)
        case (float() as fraction, int() as seed) if 0.0 < fraction < 1.0 and seed >= 0:
            return Split(fraction, seed)
    raise ValueError(
        f"split should be the fraction that is kept for testing, such as 0.2, a seed, or "
        f"(fraction, seed), but got {value!r}"
    )


def split_rows(
    y: NDArray[Any], fraction: float, rng: np.random.Generator | int | None, *, stratify: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Choose which rows are kept and which are held out.

    Parameters
    ----------
    y : ndarray, shape (N,) or (N, ...)
        Labels or targets.
    fraction : float
        Share that is held out, above 0 and below 1.
    rng : numpy.random.Generator or int, optional
        Where the choice comes from.
    stratify : bool
        Whether every class gives the same share; a class of one sample is kept.

    Returns
    -------
    kept, held_out : ndarray of int
        Row numbers, each in ascending order.

    Raises
    ------
    ValueError
        If the fraction is out of range, or leaves nothing on one side.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"The fraction to hold out should be between 0 and 1, but got {fraction}")
    rng = np.random.default_rng(rng)
    count = round(len(y) * fraction)
    if not 0 < count < len(y):
        raise ValueError(f"A fraction of {fraction} of {len(y)} samples leaves one part empty")
    held_out = np.zeros(len(y), bool)
    if not stratify:
        held_out[rng.permutation(len(y))[:count]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    _, of_class, sizes = np.unique(y, return_inverse=True, return_counts=True)
    exact = sizes * fraction
    shares = np.minimum(exact.astype(np.intp), sizes - 1)
    # What rounding down left over goes to the largest remainders of classes that can give one more.
    remainder = np.where(shares < sizes - 1, exact - shares, -1.0)
    for index in np.argsort(-remainder, kind="stable")[: max(0, count - int(shares.sum()))]:
        if remainder[index] >= 0.0:
            shares[index] += 1
    for index, share in enumerate(shares):
        rows = np.flatnonzero(of_class == index)
        held_out[rng.permutation(rows)[:share]] = True
    if not held_out.any():
        raise ValueError("Every class has a single sample: there is none to hold out")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
