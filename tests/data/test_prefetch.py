from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest

from fastbn.data import Prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "fastbn-prefetch"]


def test_items_in_their_order_and_again() -> None:
    items = Prefetch([3, 1, 2])
    assert len(items) == 3
    assert list(items) == list(items) == [3, 1, 2]
    assert list(Prefetch([])) == []
    assert not threads()


def test_never_more_than_depth_ahead() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for item in itertools.count():
            made.append(item)
            yield item

    walk = iter(Prefetch(source(), depth=2))
    assert next(walk) == 0
    time.sleep(0.05)
    assert len(made) <= 1 + 2 + 1  # used, waiting, in hand
    walk.close()  # type: ignore[attr-defined]
    assert not threads()


def test_an_error_comes_where_its_item_would_have() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise RuntimeError("the disk is gone")

    walk = iter(Prefetch(source()))
    assert next(walk) == 1
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(walk)
    assert not threads()


def test_closing_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    for item in Prefetch(source()):
        if item == 3:
            break
    assert closed.wait(5)


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="threads have no priority here")
def test_the_thread_stands_behind_the_team() -> None:
    def source() -> Iterator[int]:
        yield os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    expected = min(19, own + 10) if os.uname().sysname == "Linux" else own
    assert list(Prefetch(source())) == [expected]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


def test_depth() -> None:
    with pytest.raises(ValueError, match="depth should be a positive integer, but got 0"):
        Prefetch([], depth=0)
