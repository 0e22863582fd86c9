"""Mini-batches: a seeded shuffle and contiguous slices of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Batches:
    """Walk over images and labels in mini-batches, each walk in a new order.

    Parameters
    ----------
    x, y : ndarray
        Samples and labels, ``(N, ...)`` and ``(N, ...)``.
    batch_size : int
        Rows in a batch; the last one is smaller where N is not a multiple of it.
    rng : numpy.random.Generator or int, optional
        Where the order comes from. The same seed gives the same sequence of walks; a generator is
        used as it is and advances with every walk. None takes entropy from the system.
    shuffle : bool, default True
        False walks in storage order; its batches are views.
    drop_last : bool, default False
        Leave out a last batch that is smaller than `batch_size`. Batch statistics of a handful of
        rows are noise, and of one row do not exist.

    Raises
    ------
    ValueError
        If `x` and `y` differ in length or `batch_size` is not positive.

    Examples
    --------
    >>> x, y = np.arange(5.0)[:, None], np.arange(5)
    >>> [labels.tolist() for _, labels in Batches(x, y, 2, shuffle=False)]
    [[0, 1], [2, 3], [4]]
    >>> walks = Batches(x, y, 2, rng=0, drop_last=True)
    >>> len(walks)
    2
    >>> [labels.tolist() for _, labels in walks]
    [[2, 4], [3, 0]]
    >>> [labels.tolist() for _, labels in walks]
    [[4, 1], [2, 0]]
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        batch_size: int,
        *,
        rng: np.random.Generator | int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(
                f"Expected as many labels as samples, got {len(x)} samples and {len(y)} labels"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size should be a positive integer, but got {batch_size}")
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rng = np.random.default_rng(rng)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.x), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Draw the order of one walk, then give its batches one by one."""
        order = self.rng.permutation(len(self.x)) if self.shuffle else None
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            rows = slice(first, min(first + self.batch_size, len(self.x)))
            if order is None:
                yield self.x[rows], self.y[rows]
            else:
                yield self.x.take(order[rows], axis=0), self.y.take(order[rows], axis=0)
