"""Rows that become float when they are read: images of bytes, files that do not fit into memory."""

from __future__ import annotations

from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn.data.images import ImageFiles
from fastbn.data.normalization import Normalization

PIXEL_MAX = 255

Index = slice | NDArray[np.intp] | list[int]


class Rows:
    """Samples ``(N, ...)`` that are converted batch by batch, never all at once.

    Bytes (uint8) are pixels and are divided by 255; other types keep their values.

    Parameters
    ----------
    base : ndarray or ImageFiles
        What is stored, of any numeric type; a memory-mapped array stays on the disk.
    dtype : data-type, default float32
        Type of the rows that are read: float32 or float64.
    normalization : Normalization, optional
        Applied after the conversion.
    chosen : ndarray of int, optional
        Which rows of `base` these are, in their order; by default all.

    Attributes
    ----------
    on_disk : bool
        Whether `base` is memory-mapped, or image files.

    Examples
    --------
    >>> rows = Rows(np.array([[0, 51], [102, 255]], np.uint8))
    >>> rows.shape, rows.dtype
    ((2, 2), dtype('float32'))
    >>> rows[[1]]
    array([[0.4, 1. ]], dtype=float32)
    """

    def __init__(
        self,
        base: NDArray[Any] | ImageFiles,
        dtype: DTypeLike = np.float32,
        normalization: Normalization | None = None,
        chosen: NDArray[np.intp] | None = None,
    ) -> None:
        self.on_disk = isinstance(base, ImageFiles) or on_disk(base)
        # A plain view of a memory-mapped array reads nothing.
        self.base = base if isinstance(base, ImageFiles) else np.asarray(base)
        self.dtype = np.dtype(dtype)
        self.normalization = normalization
        self.chosen = chosen

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, ...)``."""
        return (len(self), *self.base.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.base.ndim

    def __len__(self) -> int:
        return len(self.base if self.chosen is None else self.chosen)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Return the rows of a slice or of a list of numbers, converted; the caller's own."""
        if self.chosen is not None:
            index = self.chosen[index]
        stored = self.base[index] if isinstance(index, slice) else self.base.take(index, axis=0)
        rows = np.array(stored, self.dtype, order="C")
        if stored.dtype == np.uint8:
            rows /= PIXEL_MAX
        return rows if self.normalization is None else self.normalization.apply(rows)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("rows are converted when they are read, which makes a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Return some of the samples; they stay where they are."""
        chosen = rows if self.chosen is None else self.chosen[rows]
        return Rows(self.base, self.dtype, self.normalization, chosen)

    def normalized(self, normalization: Normalization) -> Rows:
        """Return the same samples, normalised when they are read."""
        if self.normalization is not None:
            raise ValueError("the rows are normalised already")
        return Rows(self.base, self.dtype, normalization, self.chosen)

    def __repr__(self) -> str:
        return f"Rows({self.base.dtype} {self.shape}, read as {self.dtype})"


Samples = NDArray[Any] | Rows


def on_disk(array: Any) -> bool:
    """Tell whether an array is a view of a file."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap | mmap)


def read(x: Samples, index: Index) -> NDArray[Any]:
    """Return the rows of a slice (of an array: a view) or of a list of numbers (a copy)."""
    if isinstance(x, Rows) or isinstance(index, slice):
        return x[index]
    return x.take(index, axis=0)
