"""Memory for results, used again from step to step where nobody outside holds it.

A network owns one `Pool`. A layer asks it for an array to write its result to, and whoever wants
to keep the result simply keeps it: a buffer is handed out again only when the reference counts of
its memory say that neither a caller, nor a view, nor what a forward saved refers to it any more.
So a training step in its steady state allocates nothing, and ``[net(x) for x in batches]`` still
gives different arrays that never change.
"""

from __future__ import annotations

from collections.abc import Hashable
from sys import getrefcount
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Entry = tuple[Array, Array]  # the memory, and the view of it that is handed out

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register

# Input shapes whose buffers are kept: a training batch and a smaller last one, the same two of an
# evaluation. Serving batches of ever new sizes thus holds four sets at most.
SETS = 4

# Results that callers collect are left to them once there are this many more than a step needs.
SPARE = 8


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised C-contiguous array that begins on a cache line.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : data-type
        Its element type.

    Returns
    -------
    ndarray
        Its ``base`` is the memory, to which every view of it refers.

    Examples
    --------
    >>> a = aligned_empty((3, 5), "float32")
    >>> a.ctypes.data % 64, a[1:].base is a.base
    (0, True)
    """
    dtype = np.dtype(dtype)
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= size
    memory = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def _entry(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Entry:
    view = aligned_empty(shape, dtype)
    assert view.base is not None
    return view.base, view


def _counts(entries: list[Entry]) -> tuple[int, int]:
    """Count as `Pool.take` does."""
    for memory, view in entries:
        return getrefcount(memory), getrefcount(view)
    raise ValueError("there is nothing to count")


# What the two counts are while only the pool holds an entry. Interpreters differ in what they
# count on the way into getrefcount, so this one is asked.
_MEMORY_FREE, _VIEW_FREE = _counts([_entry((1,), np.dtype(np.float32))])


class Pool:
    """The buffers of one network.

    Attributes
    ----------
    allocations : int
        Buffers made since the pool exists: constant while every step finds what it needs.
    """

    __slots__ = ("_buffers", "_key", "_most", "_sets", "_takes", "allocations")

    def __init__(self) -> None:
        self.allocations = 0
        self._key: Hashable = None
        self._buffers: dict[Hashable, list[Entry]] = {}
        self._sets: dict[Hashable, dict[Hashable, list[Entry]]] = {None: self._buffers}
        self._takes = 0  # since the last start
        self._most = 0  # of all starts

    def start(self, key: Hashable) -> None:
        """Begin a call of the network on the input that `key` stands for, its shape and dtype."""
        self._most = max(self._most, self._takes)
        self._takes = 0
        if key is not self._key:
            self._key = key
            self._buffers = self._sets.pop(key, {})
            self._sets[key] = self._buffers  # the latest stands last
            if len(self._sets) > SETS:
                del self._sets[next(iter(self._sets))]

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an aligned array that nobody else refers to; its content is arbitrary."""
        self._takes += 1
        entries = self._buffers.get((shape, dtype))
        if entries is not None:
            for memory, view in entries:
                # the memory's count tells of other views than this one
                if getrefcount(view) == _VIEW_FREE and getrefcount(memory) == _MEMORY_FREE:
                    return view
        return self._allocate(shape, dtype)

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        entries = self._buffers.setdefault((shape, dtype), [])
        if len(entries) >= max(self._most, self._takes) + SPARE:
            del entries[0]
        entry = _entry(shape, dtype)
        entries.append(entry)
        self.allocations += 1
        return entry[1]
