"""Memory for results, used again from step to step where nobody outside holds it.

A network owns one `Pool`. A layer asks it for an array to write its result to, and whoever wants
to keep the result simply keeps it: a buffer is handed out again only when the reference counts of
its memory say that neither a caller, nor a view, nor what a forward saved refers to it any more.
So a training step in its steady state allocates nothing, and ``[net(x) for x in batches]`` still
gives different arrays that never change.

Buffers belong to a shape and a dtype, and to the thread that asked for them: reference counts
cannot tell what another thread is about to take. Large ones of different shapes lie over one
another where a step uses them one after the other (see `arena`).
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from sys import getrefcount
from threading import get_ident
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.arena import (
    MEMORY_FREE,
    VIEW_FREE,
    Arena,
    Buffer,
    aligned_empty,
    entry_of,
    is_free,
    size_of,
)

Array = NDArray[Any]
Buffers = dict[Hashable, list[Buffer]]  # by shape and dtype

SHARED = 262144  # bytes from which on buffers lie over one another

# Input shapes whose buffers are kept: a training batch and a smaller last one, the same two of an
# evaluation. Serving batches of ever new sizes thus holds four sets at most.
SETS = 4

# Results that callers collect are left to them once there are this many more than a step needs.
SPARE = 8


class Pool:
    """The buffers of one network.

    Attributes
    ----------
    allocations : int
        Buffers made since the pool exists: constant while every step finds what it needs. Those
        of other threads than the one that made the pool do not count.
    """

    __slots__ = (
        "_arena",
        "_buffers",
        "_key",
        "_most",
        "_others",
        "_sets",
        "_takes",
        "_thread",
        "allocations",
    )

    def __init__(self) -> None:
        self.allocations = 0
        self._thread = get_ident()
        self._others = threading.local()  # the pool of every other thread
        self._key: Hashable = None
        self._buffers: Buffers = {}
        self._arena = Arena()
        self._sets: dict[Hashable, tuple[Buffers, Arena]] = {None: (self._buffers, self._arena)}
        self._takes = 0  # since the last start
        self._most = 0  # of all starts

    def __reduce__(self) -> tuple[type[Pool], tuple[()]]:
        return Pool, ()  # a copy, as of a loss, finds its own memory

    def start(self, key: Hashable) -> None:
        """Begin a call of the network on the input that `key` stands for, its shape and dtype."""
        if self._thread != get_ident():
            self._own().start(key)
            return
        self._most = max(self._most, self._takes)
        self._takes = 0
        if key is not self._key:
            self._key = key
            found = self._sets.pop(key, None) or ({}, Arena())
            self._sets[key] = found  # the latest stands last
            self._buffers, self._arena = found
            if len(self._sets) > SETS:
                del self._sets[next(iter(self._sets))]

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an aligned array that nobody else refers to; its content is arbitrary."""
        if self._thread != get_ident():
            return self._own().take(shape, dtype)
        self._takes += 1
        for (memory, view), rivals in self._buffers.get((shape, dtype), ()):
            if (
                getrefcount(view) == VIEW_FREE  # as is_free has it, without the call
                and getrefcount(memory) == MEMORY_FREE
                and (not rivals or all(map(is_free, rivals)))
            ):
                return view
        return self._allocate(shape, dtype)

    def _own(self) -> Pool:
        """Return the pool of this thread, which goes when the thread does."""
        try:
            pool: Pool = self._others.pool
        except AttributeError:
            pool = self._others.pool = Pool()
        return pool

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        buffers = self._buffers.setdefault((shape, dtype), [])
        needed = max(self._most, self._takes)
        if len(buffers) < needed and size_of(shape, dtype) >= SHARED:
            buffer = self._arena.place(shape, dtype)
        else:  # what callers collect has memory of its own, which goes when they let it go
            buffer = entry_of(aligned_empty(shape, dtype)), []
        if len(buffers) >= needed + SPARE:
            del buffers[0]
        buffers.append(buffer)
        self.allocations += 1
        return buffer[0][1]
