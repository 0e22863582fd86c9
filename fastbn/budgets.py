"""What a file may ask for: memory, time and work in proportion to its own size.

A file of a kilobyte can declare terabytes, and loops that outlast the machine. Whoever reads one
asks here first, and says what needs how much. Real files stay far below; where one does not, the
budgets are raised with ``--max-memory`` and ``--max-seconds``, or in Python:

>>> with limits(memory="4GB"):
...     allowed_memory(1000)
4000000000

What cannot be known beforehand (what a C++ parser allocates, how long a graph runs) is watched
from another process; see `fastbn.cli.watch`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

# A file of `size` bytes may unpack to, or make, MEMORY + RATIO * size bytes of arrays. A process
# that reads it may hold PROCESS + RATIO * size bytes and take SECONDS + size / BYTES_A_SECOND.
MEMORY = 128 << 20
PROCESS = 768 << 20
RATIO = 32
SECONDS = 7.5
BYTES_A_SECOND = 100_000
# A node of a graph counts as this many bytes more: whatever holds it takes kilobytes.
NODE_BYTES = 400

# n nodes may become, with functions inlined, NODES + RATIO * n, and one run may execute EXECUTED
# nodes, those in loops once a turn.
NODES = 100_000
EXECUTED = 500_000

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


class BudgetError(ValueError):
    """A file asks for more than its size justifies; the message says how to allow it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows; None leaves it to the file's size."""

    memory: int | None = None
    seconds: float | None = None


_NONE = Limits()
_limits: ContextVar[Limits] = ContextVar("fastbn_limits", default=_NONE)


@contextlib.contextmanager
def limits(memory: int | str | None = None, seconds: float | None = None) -> Iterator[Limits]:
    """Allow the files that are read in the block this much, whatever their sizes are.

    Parameters
    ----------
    memory : int or str, optional
        Bytes of arrays that one file may make, or a text as `parse_bytes` reads it.
    seconds : float, optional
        Time of one command; it has no effect but on the command line.
    """
    given = parse_bytes(memory) if isinstance(memory, str) else memory
    token = _limits.set(Limits(given, seconds))
    try:
        yield _limits.get()
    finally:
        _limits.reset(token)


def parse_bytes(text: str) -> int:
    """Read a number of bytes.

    Raises
    ------
    ValueError
        If it is none, or not above zero.

    Examples
    --------
    >>> parse_bytes("500MB"), parse_bytes("1.5 GiB"), parse_bytes("1000")
    (500000000, 1610612736, 1000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    factor = (_UNITS | _BINARY).get(found[2]) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise ValueError(f"expected a size as in 500MB or 4GB, got {text!r}")
    return int(float(found[1]) * factor)


def as_text(size: float) -> str:
    """Show a number of bytes.

    Examples
    --------
    >>> as_text(999), as_text(5_184_000_000), as_text(2**80)
    ('999 bytes', '5.2 GB', '1.2e+12 TB')
    """
    if size < 1000:
        return f"{size:.0f} bytes"
    power = min(int(math.log10(size) // 3), 4)
    value = size / 1000**power
    return f"{value:.1f} {' kMGT'[power]}B" if value < 1e6 else f"{value:.1e} {' kMGT'[power]}B"


def allowed_memory(size: int, floor: int = MEMORY) -> int:
    """Bytes that a file of `size` bytes may make."""
    given = _limits.get().memory
    return floor + RATIO * size if given is None else given


def allowed_seconds(size: int) -> float:
    """Seconds that a command on files of `size` bytes may take."""
    given = _limits.get().seconds
    return SECONDS + size / BYTES_A_SECOND if given is None else given


def require_memory(needed: int, size: int, what: str, floor: int = MEMORY) -> None:
    """Raise `BudgetError` if a file of `size` bytes may not make `needed` bytes.

    Examples
    --------
    >>> require_memory(10**12, 700, "a.npz: array 'x'")
    Traceback (most recent call last):
    fastbn.budgets.BudgetError: a.npz: array 'x' takes 1.0 TB of memory, allowed are 134.2 MB; \
raise that with --max-memory (in Python fastbn.budgets.limits) if you trust the file
    """
    allowed = allowed_memory(size, floor)
    if needed > allowed:
        raise BudgetError(
            f"{what} takes {as_text(needed)} of memory, allowed are {as_text(allowed)}; raise "
            "that with --max-memory (in Python fastbn.budgets.limits) if you trust the file"
        )


# Called with each input's path and size before it is read, by whoever watches a command.
listener: Callable[[str, int], None] | None = None


def found(path: str, size: int) -> None:
    """Say that a file of this size is about to be read."""
    if listener is not None:
        listener(path, size)


_parameters: ContextVar[list[int] | None] = ContextVar("fastbn_parameters", default=None)


@contextlib.contextmanager
def parameters(count: int, what: str) -> Iterator[None]:
    """Let networks made in the block have `count` values, those of the file that describes them.

    So arguments that a file gives to a factory cannot make a network that its weights do not fill.

    Raises
    ------
    ValueError
        If a layer asks for more.
    """
    token = _parameters.set([count])
    try:
        yield
    except _TooLargeError as error:
        raise ValueError(f"{what} {error}") from None
    finally:
        _parameters.reset(token)


class _TooLargeError(ValueError):
    pass


def take_parameters(shape: Sequence[int], *, count: bool = True) -> None:
    """Count the values of a parameter before it is made, or only look; see `parameters`."""
    left = _parameters.get()
    if left is None:
        return
    rest = left[0] - math.prod(shape)
    if rest < 0:
        sizes = " × ".join(map(str, shape))
        raise _TooLargeError(f"describes a larger network ({sizes}) than it has weights for")
    if count:
        left[0] = rest
