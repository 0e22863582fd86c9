"""Mini-batches: a seeded shuffle and slices of it.

Everything random is keyed, not drawn in turn: the order of an epoch by (seed, epoch), what
augmentation does to a batch by (seed, epoch, step). A run that was interrupted takes up any step
of any epoch without replaying those before, given three integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data.prefetch import ahead
from fastbn.data.rows import Rows, Samples, read
from fastbn.data.shards import shard_of

Batch = tuple[NDArray[Any], ...]
Augment = Callable[..., NDArray[Any]]  # (images, rng), and a `Where` as well if it is `located`
Rng = np.random.Generator | int | None


@dataclass(frozen=True)
class Where:
    """Which samples a batch holds: what an augmentation that is `located` gets besides.

    Attributes
    ----------
    epoch : int
    index : ndarray of int
        Numbers of the samples.
    count : int
        Samples there are.
    seed : int
        Of the run; see `keyed`.
    """

    epoch: int
    index: NDArray[np.intp]
    count: int
    seed: int


def seed_of(rng: Rng) -> int:
    """Return one integer that stands for a source of randomness: its next 128 bits.

    A number and a generator made of it are the same source; None asks the system.
    """
    return int.from_bytes(np.random.default_rng(rng).bytes(16), "little")


def keyed(seed: int, *key: int) -> np.random.Generator:
    """Return the generator that belongs to a key: (epoch,) or (epoch, step)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class Batches:
    """Samples and labels in mini-batches, every epoch in a new order.

    Parameters
    ----------
    x, y : ndarray or Rows
        Samples and labels, ``(N, ...)`` and ``(N, ...)``; `fastbn.data.as_samples` makes them.
    batch_size : int
        Rows in a batch; the last one is smaller where N is not a multiple of it.
    rng : numpy.random.Generator or int, optional
        Where order and augmentation come from: a generator gives the 128 bits of `seed`, a number
        is that of a new generator. None takes entropy from the system.
    shuffle : bool, default True
        False walks in storage order; its batches are views of arrays.
    drop_last : bool, default False
        Leave out a last batch that is smaller than `batch_size`. Batch statistics of a handful of
        rows are noise, and of one row do not exist.
    weight : ndarray, shape (N,), optional
        Weights of the samples: batches are ``(x, y, weight)`` then, else ``(x, y)``.
    augment : callable, optional
        ``augment(images, rng) -> images``; see `fastbn.data.augment`. It may change the images it
        gets, which are a copy.
    prefetch : bool, optional
        Whether a thread makes batches while the last one is used; by default where `x` lies on the
        disk. The batches are the same.

    Attributes
    ----------
    shard : (int, int) or None
        Number and count of the ranks that share each batch, of which this one gives its part: the
        order of all is that of one process. See `fastbn.distributed`.
    seed : int
        Together with the numbers of epoch and step it is the whole state: a checkpoint keeps the
        three, and of batches with that `seed`, ``epoch(number, start=step)`` continues.

    Raises
    ------
    ValueError
        If `x` and `y` differ in length or `batch_size` is not positive.

    Examples
    --------
    >>> x, y = np.arange(5.0)[:, None], np.arange(5)
    >>> [labels.tolist() for _, labels in Batches(x, y, 2, shuffle=False)]
    [[0, 1], [2, 3], [4]]
    >>> batches = Batches(x, y, 2, rng=0, drop_last=True)
    >>> len(batches)
    2
    >>> [labels.tolist() for _, labels in batches.epoch(0)]
    [[2, 1], [3, 4]]
    >>> [labels.tolist() for _, labels in batches.epoch(0, start=1)]
    [[3, 4]]
    """

    def __init__(
        self,
        x: Samples,
        y: NDArray[Any],
        batch_size: int,
        *,
        rng: Rng = None,
        shuffle: bool = True,
        drop_last: bool = False,
        weight: NDArray[Any] | None = None,
        augment: Augment | None = None,
        prefetch: bool | None = None,
    ) -> None:
        for other, what in ((y, "labels"), (weight, "weights")):
            if other is not None and len(x) != len(other):
                raise ValueError(
                    f"Expected as many {what} as samples, "
                    f"got {len(x)} samples and {len(other)} {what}"
                )
        if batch_size < 1:
            raise ValueError(f"batch_size should be a positive integer, but got {batch_size}")
        self.x = x
        self.y = y
        self.weight = weight
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.augment = augment
        self.prefetch = getattr(x, "on_disk", False) if prefetch is None else prefetch
        self.shard: tuple[int, int] | None = None
        self.seed = seed_of(rng)
        self._walks = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.x), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self)

    def __iter__(self) -> Iterator[Batch]:
        """Walk the next epoch, of those that were begun so."""
        epoch = self._walks
        self._walks += 1
        return self.epoch(epoch)

    def epoch(self, number: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Give the batches of one epoch, bit for bit the same whenever it is asked for.

        Parameters
        ----------
        number : int
            Which epoch, from 0.
        start : int, default 0
            The first step to give; those before cost nothing.
        stop : int, optional
            The step before which to end; none from there on is read. By default the last.

        Returns
        -------
        iterator of (ndarray, ...)
            ``(x, y)``, or ``(x, y, weight)``.
        """
        batches = self._epoch(number, start, len(self) if stop is None else stop)
        return ahead(batches) if self.prefetch else batches

    def _epoch(self, number: int, start: int, stop: int) -> Iterator[Batch]:
        order = keyed(self.seed, number).permutation(len(self.x)) if self.shuffle else None
        located = getattr(self.augment, "located", False)
        for step in range(start, stop):
            first = step * self.batch_size
            cut = slice(first, min(first + self.batch_size, len(self.x)))
            key: tuple[int, ...] = (number, step)
            if self.shard is not None:
                own = shard_of(cut.stop - first, *self.shard)
                cut = slice(first + own.start, first + own.stop)
                key = (*key, self.shard[0]) if self.shard[0] else key
            index = cut if order is None else order[cut]
            x = read(self.x, index)
            if self.augment is not None:
                if order is None and not isinstance(self.x, Rows):
                    x = x.copy()
                at = (self._where(number, cut, order),) if located else ()
                x = self.augment(x, keyed(self.seed, *key), *at)
            others = (self.y,) if self.weight is None else (self.y, self.weight)
            yield (x, *(read(other, index) for other in others))

    def _where(self, number: int, cut: slice, order: NDArray[np.intp] | None) -> Where:
        index = np.arange(cut.start, cut.stop) if order is None else order[cut]
        return Where(number, index, len(self.x), self.seed)
