"""What a thread knows of the network call that it is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Run:
    """What is so for the call that a thread is in.

    Attributes
    ----------
    saving : bool or None
        Whether the outermost call keeps what a backward needs; None outside of all calls.
    inference : bool
        Whether all layers work as in inference mode, whatever mode they are in.
    mask : ndarray of bool or None
        Which positions count for the BatchNorms; see `fastbn.nn.Module`.
    evaluated : frozenset of Module
        Those that are called so; see `fastbn.nn.Module.evaluating`.
    """

    __slots__ = ("evaluated", "inference", "mask", "saving")

    def __init__(self) -> None:
        self.saving: bool | None = None
        self.inference = False
        self.mask: Any = None
        self.evaluated: frozenset[Any] = frozenset()

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Begin calls of their own, in inference, for a ``with`` block."""
        before = self.saving, self.inference
        self.saving, self.inference = None, True
        try:
            yield
        finally:
            self.saving, self.inference = before


class Here(threading.local):
    """Each thread has a `run` of its own."""

    def __init__(self) -> None:
        self.run = Run()


here = Here()
