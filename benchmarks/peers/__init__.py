"""The other libraries: each in a process of its own, with its own pool of threads.

Two pools that spin on the same cores slow each other down, so a peer never shares a process with
this library, and only one process computes at a time. The others wait for a message, asleep.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

TITLES = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}


def installed() -> list[str]:
    """Names of the peers that are installed, which are not imported for that."""
    return [name for name in TITLES if importlib.util.find_spec(name) is not None]


def choose(wanted: Sequence[str]) -> list[str]:
    """Return the peers of a list; ``["all"]`` are those installed, ``["none"]`` is nobody.

    Raises
    ------
    ValueError
        If a name is unknown, or the peer is not installed.

    Examples
    --------
    >>> choose(["none"])
    []
    """
    if list(wanted) == ["none"]:
        return []
    found = installed()
    if list(wanted) == ["all"]:
        return found
    for name in wanted:
        if name not in TITLES:
            raise ValueError(f"peers: {name!r} is not one of none, all, {', '.join(TITLES)}")
        if name not in found:
            raise ValueError(f"peers: {TITLES[name]} is not installed: pip install {name}")
    return list(wanted)
