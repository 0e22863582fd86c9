"""Batches made ahead of their use, by one thread that stands behind the team of the kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

DEPTH = 2  # one that is waited for, one that is being made
PATIENCE = 0.1  # seconds between two looks whether anybody still wants more
LOWER = 10  # steps of niceness


class Prefetch(Generic[T]):
    """The items of an iterable, made by a thread while the ones before are used.

    For what waits: files, a network, decoding. The thread is one, asks the system for a lower
    priority than the kernels' team has (on Linux), and is at most `depth` items ahead, so that it
    takes the time that would be idle and a bounded part of memory. The items and their order are
    the iterable's own; an exception in it is raised where its item would have come.

    Parameters
    ----------
    items : iterable
        Walked again whenever this object is, where it can be.
    depth : int, default 2
        Items that wait at most.

    Examples
    --------
    >>> list(Prefetch(range(4)))
    [0, 1, 2, 3]
    """

    def __init__(self, items: Iterable[T], depth: int = DEPTH) -> None:
        if depth < 1:
            raise ValueError(f"depth should be a positive integer, but got {depth}")
        self.items = items
        self.depth = depth

    def __iter__(self) -> Iterator[T]:
        return ahead(iter(self.items), self.depth)

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]  # a TypeError where it has none


def ahead(items: Iterator[T], depth: int = DEPTH) -> Iterator[T]:
    """Give the items of an iterator, made ahead; closing this closes that."""
    queue: Queue[tuple[bool, Any]] = Queue(depth)
    stop = threading.Event()

    def put(found: bool, item: Any) -> None:
        while not stop.is_set():
            try:
                return queue.put((found, item), timeout=PATIENCE)
            except Full:
                continue

    def produce() -> None:
        _stand_behind()
        try:
            for item in items:
                put(True, item)
                if stop.is_set():
                    break
            put(False, None)
        except BaseException as error:
            put(False, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="fastbn-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            found, item = queue.get()
            if not found:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stop.set()
        while True:  # room for the item that the thread may be about to put
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()


def _stand_behind() -> None:
    """Lower the priority of this thread where threads have one of their own."""
    if os.name == "posix" and os.uname().sysname == "Linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness + LOWER))
