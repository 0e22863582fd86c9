"""What windows that slide over an image have in common: sizes, strides, padding."""

from __future__ import annotations

from collections.abc import Sequence

from fastbn.nn.module import Module, Shape
from fastbn.nn.state import batch_of

IntPair = int | tuple[int, int]

BATCH = 32  # images in a batch, where it is not known
MOST = 2**31 - 1  # of a window's numbers, as in `fastbn.functional`


def pair(value: int | Sequence[int], what: str, least: int = 1) -> tuple[int, int]:
    """Return ``(value, value)`` or the two values.

    Parameters
    ----------
    value : int or sequence of two int
        For height and width, or for both.
    what : str
        Layer and argument, for the message.
    least : int, default 1
        The smallest value allowed.

    Raises
    ------
    TypeError, ValueError
        If it is not one or two whole numbers, or they are too small or too large.

    Examples
    --------
    >>> pair(3, "Conv2d: kernel_size"), pair((1, 2), "Conv2d: stride")
    ((3, 3), (1, 2))
    """
    values = (value, value) if not isinstance(value, Sequence) else tuple(value)
    if any(not hasattr(v, "__index__") or isinstance(v, bool) for v in values):
        raise TypeError(f"{what} should be an int or a pair of ints, got {value!r}")
    if len(values) != 2:
        raise ValueError(f"{what} should be an int or a pair of ints, got {value!r}")
    height, width = (int(v) for v in values)
    if min(height, width) < least:
        raise ValueError(f"{what} should be at least {least}, got {value!r}")
    if max(height, width) > MOST:
        raise ValueError(f"{what} should be at most {MOST}, got {value!r}")
    return height, width


def single(value: int, what: str, least: int = 1) -> int:
    """Return a whole number; TypeError or ValueError, naming `what`, if it is none or too small."""
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise TypeError(f"{what} should be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{what} should be at least {least}, got {value!r}")
    return int(value)


def check_image(where: str, input_shape: tuple[int, ...]) -> None:
    """Raise ValueError, naming the layer, unless a sample's shape is (H, W, C)."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{where}: Expected 4D (batched) input (N, H, W, C), got {batch_of(input_shape)}"
        )


class Windowed(Module):
    """Base class of layers whose windows slide over an image."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: tuple[Shape, Shape] = ((), ())  # the last image shape and its output's

    def batch_shape(self, x_shape: Shape) -> Shape:
        """Return the shape of the output for a batch."""
        sizes = self._sizes
        if x_shape[1:] != sizes[0]:
            sizes = self._sizes = (x_shape[1:], self.output_shape(x_shape[1:]))
        return (x_shape[0], *sizes[1])


def short(values: int | tuple[int, ...]) -> str:
    """Return ``"3"`` for 3 and (3, 3), and ``"(3, 2)"`` for (3, 2)."""
    alike = isinstance(values, tuple) and len(set(values)) == 1
    return str(values[0]) if isinstance(values, tuple) and alike else str(values)


def windows(
    size: int, kernel: int, stride: int, padding: int, *, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return the number of windows along an axis; none if it is zero or negative.

    Dumoulin & Visin, "A guide to convolution arithmetic" (2016), relationship 6. With `ceil_mode`
    a last, incomplete window counts if it begins in the input or in the padding in front of it.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if ceil_mode:
        room += stride - 1
    if room < 0:
        return 0
    count = room // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count
