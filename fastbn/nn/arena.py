"""Places for buffers in a few large pieces of memory, found anew only where nobody uses them.

What a forward saves for one layer is dead before the gradients of another are made, but seldom of
the same size. So buffers of different shapes may lie over one another: an `Arena` puts a buffer
where all others are free at that moment, and tells every buffer of those it shares bytes with. As a
training step asks for the same buffers in the same order every time, the places of its first run
serve all others.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Entry = tuple[Array, Array]  # the memory, and the view of it that is handed out
Buffer = tuple[Entry, list[Entry]]  # with all others that have bytes in common

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
LARGEST = 1 << 26  # bytes of a slab at most, but for a larger buffer: who keeps one keeps its slab


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
    nbytes = size_of(shape, dtype)
    memory = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def size_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of an array."""
    nbytes = dtype.itemsize
    for size in shape:
        nbytes *= size
    return nbytes


def entry_of(view: Array) -> Entry:
    """Return a view with the memory that all its views refer to."""
    assert view.base is not None
    return view.base, view


def _counts(entry: Entry) -> tuple[int, int]:
    """Count as `is_free` does."""
    memory, view = entry
    return getrefcount(view), getrefcount(memory)


# What the two counts are while nobody but its owner holds an entry. Interpreters differ in what
# they count on the way into getrefcount, so this one is asked.
VIEW_FREE, MEMORY_FREE = _counts(entry_of(aligned_empty((1,), np.float32)))


def is_free(entry: Entry) -> bool:
    """Tell whether nobody else refers to an entry: its view, or the memory by other views."""
    memory, view = entry
    return getrefcount(view) == VIEW_FREE and getrefcount(memory) == MEMORY_FREE


class Slab:
    """One piece of memory, and the entries that were put into it.

    Pages that no entry has reached yet take no memory where the system gives it when it is touched.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        # Behind a memoryview, every entry's memory is the last base of its own views.
        self.whole = aligned_empty((nbytes,), np.uint8).data
        self.placed: list[tuple[int, int, Buffer]] = []  # from byte, to byte

    def gap(self, nbytes: int) -> int | None:
        """Return the first place where so many bytes are free, None if there is none."""
        begin = 0
        for start, end, (entry, _) in sorted(self.placed, key=lambda place: place[0]):
            if end > begin and not is_free(entry):
                if start - begin >= nbytes:
                    return begin
                begin = end
        return begin if self.nbytes - begin >= nbytes else None


class Arena:
    """Memory of buffers that take turns in it."""

    def __init__(self) -> None:
        self._slabs: list[Slab] = []

    def place(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Return a new buffer; those that it shares bytes with are all free now."""
        nbytes = size_of(shape, dtype)
        room = -(-nbytes // ALIGNMENT) * ALIGNMENT
        for slab in self._slabs:
            begin = slab.gap(room)
            if begin is not None:
                break
        else:  # as much again as there is: few slabs, and few gaps at their ends
            begin = 0
            slab = Slab(max(room, min(sum(slab.nbytes for slab in self._slabs), LARGEST)))
            self._slabs.append(slab)
        memory = np.frombuffer(slab.whole, np.uint8, nbytes, begin)
        entry = entry_of(memory.view(dtype).reshape(shape))
        end = begin + room
        rivals = []
        for start, stop, (other, of_other) in slab.placed:
            if start < end and begin < stop:
                rivals.append(other)
                of_other.append(entry)
        slab.placed.append((begin, end, (entry, rivals)))
        return entry, rivals
