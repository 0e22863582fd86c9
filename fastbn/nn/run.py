"""What a thread knows of the network call that it is in."""

from __future__ import annotations

import threading


class Run:
    """What is so for the call that a thread is in.

    Attributes
    ----------
    saving : bool or None
        Whether the outermost call keeps what a backward needs; None outside of all calls.
    inference : bool
        Whether all layers work as in inference mode, whatever mode they are in.
    """

    __slots__ = ("inference", "saving")

    def __init__(self) -> None:
        self.saving: bool | None = None
        self.inference = False


class Here(threading.local):
    """Each thread has a `run` of its own."""

    def __init__(self) -> None:
        self.run = Run()


here = Here()
