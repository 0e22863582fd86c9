"""Input normalisation: fitted on training samples, kept with the weights, built into the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fastbn.data.shards import divided

if TYPE_CHECKING:
    from fastbn.data.rows import Samples
    from fastbn.distributed import Communicator

BLOCK = 1 << 20  # numbers at a time: float64 copies of a whole set would be twice its size


@dataclass(frozen=True, eq=False)
class Normalization:
    """``(x - mean) / std``, one mean and one std for every channel or column.

    Attributes
    ----------
    mean, std : ndarray of float64, shape (C,)

    Examples
    --------
    >>> x = np.array([[1.0, 10.0], [3.0, 10.0]])
    >>> fitted = Normalization.fit(x)
    >>> fitted.mean, fitted.std
    (array([ 2., 10.]), array([1., 1.]))
    >>> fitted.apply(x)
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def fit(cls, x: Samples, *, communicator: Communicator | None = None) -> Self:
        """Take mean and standard deviation of every channel, over all other axes.

        Parameters
        ----------
        x : array_like, shape (N, ..., C)
            Training samples, channels last. They are read in blocks, so that memory-mapped ones
            stay on the disk.
        communicator : Communicator, optional
            Other ranks with the same samples, who all call this: each reads its share.

        Returns
        -------
        Normalization
            Where a channel is constant, its std is 1. The deviation is that of the samples
            (divided by N). Blocks are merged in float64 as of Chan, Golub & LeVeque (1979).

        Raises
        ------
        ValueError
            If there are no samples, or one is not finite.
        """
        if not len(x):
            raise ValueError("There is nothing to normalise: 0 samples")
        channels = x.shape[-1]
        rows = max(1, BLOCK // max(1, int(np.prod(x.shape[1:]))))

        def moments(blocks: range) -> NDArray[np.float64]:
            """Return the mean and the sum of squared differences of every block, (B, 2, C)."""
            told = np.empty((len(blocks), 2, channels))
            for (block_mean, block_m2), number in zip(told, blocks, strict=True):
                block = np.asarray(x[number * rows : (number + 1) * rows], np.float64)
                block = block.reshape(-1, channels)
                block.mean(axis=0, out=block_mean)
                np.square(block - block_mean).sum(axis=0, out=block_m2)
            return told

        count, mean, m2 = 0, np.zeros(channels), np.zeros(channels)
        told = divided(-(-len(x) // rows), moments, communicator)
        inner = int(np.prod(x.shape[1:-1]))  # values of a channel in a sample
        for number, (block_mean, block_m2) in enumerate(told):
            block_count = min(rows, len(x) - number * rows) * inner
            delta = block_mean - mean
            total = count + block_count
            m2 += block_m2 + delta**2 * (count * block_count / total)
            mean += delta * (block_count / total)
            count = total
        if not (np.isfinite(mean).all() and np.isfinite(m2).all()):
            wrong = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(m2)))
            raise ValueError(f"Samples are not finite in channel {', '.join(map(str, wrong))}")
        std = np.sqrt(m2 / count)
        # What rounding leaves of a constant channel is no deviation.
        constant = std <= np.finfo(np.float64).eps * 8 * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, std))

    def apply(self, x: Samples) -> NDArray[Any]:
        """Return normalised samples.

        Parameters
        ----------
        x : array_like, shape (N, ..., C)

        Returns
        -------
        ndarray
            A new array, float64 where x is, else float32. The difference is taken in float64: a
            column whose offset is 10,000 deviations keeps its digits.

        Raises
        ------
        ValueError
            If x has not as many channels as were fitted.
        """
        if x.shape[-1:] != self.mean.shape:
            raise ValueError(
                f"Expected samples of {len(self.mean)} channels, got shape {tuple(x.shape)}"
            )
        result = np.empty(x.shape, np.float64 if x.dtype == np.float64 else np.float32)
        rows = max(1, BLOCK // max(1, int(np.prod(x.shape[1:]))))
        for first in range(0, len(x), rows):
            block = np.subtract(x[first : first + rows], self.mean, dtype=np.float64)
            np.divide(block, self.std, out=result[first : first + rows], casting="same_kind")
        return result

    def undo(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return ``x * std + mean``: predictions of a normalised target in its own unit."""
        return (x * self.std + self.mean).astype(x.dtype)

    def as_dict(self) -> dict[str, list[float]]:
        """Return lists "mean" and "std", as `fastbn.train.save` takes them."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> Self:
        """Return what `as_dict` described.

        Raises
        ------
        ValueError
            If mean and std are missing, differ in length or are no finite numbers, std above 0.
        """
        try:
            mean, std = (np.asarray(values[name], np.float64) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Expected lists of numbers 'mean' and 'std': {error}") from None
        if mean.shape != std.shape or mean.ndim != 1:
            raise ValueError(f"Expected as many means as stds, got {mean.shape} and {std.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0.0).all()):
            raise ValueError("Expected finite means and finite stds above 0")
        return cls(mean, std)
