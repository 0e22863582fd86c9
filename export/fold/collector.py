"""Python's collector of cyclic garbage, and models of many nodes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Leave cyclic garbage alone meanwhile.

    A model is a million objects that stay; whenever there are a quarter more, Python's collector
    would look at all of them for garbage that is not there.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
