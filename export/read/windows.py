"""Windows that slide: their sizes in the file, and images they slide over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastbn import nn
from fastbn.export import windows as wd
from fastbn.export.read.node import Node
from fastbn.export.read.value import UnreadableError, Value, reshaped


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes along the axes of an image, height and width; of a volume, three.

    Attributes
    ----------
    kernel, stride, dilation, begin, end : tuple of int
        The last two are the padding in front and after.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def is_point(self) -> bool:
        """Whether it sees one pixel alone, and every one."""
        ones = (*self.kernel, *self.stride)
        return all(n == 1 for n in ones) and not any((*self.begin, *self.end))

    @property
    def pairs(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Kernel, stride and dilation of an image."""
        a, b, c = self.kernel, self.stride, self.dilation
        return (a[0], a[1]), (b[0], b[1]), (c[0], c[1])

    def is_even(self, most: Sequence[int] | None = None) -> bool:
        """Whether a layer can pad so: as much on both sides, and no more than `most`."""
        fits = most is None or all(b <= m for b, m in zip(self.begin, most, strict=True))
        return self.begin == self.end and fits

    def closed(self, sizes: Sequence[int]) -> Window:
        """Return a window whose padding ends where the last one of ceil mode does."""
        full = wd.windows(
            sizes,
            self.kernel,
            strides=self.stride,
            dilations=self.dilation,
            pads=(*self.begin, *self.end),
            ceil_mode=True,
        )
        places = zip(full.extent(), sizes, self.begin, strict=True)
        return replace(self, end=tuple(max(reach - n - b, 0) for reach, n, b in places))

    def padded(
        self, image: nn.Symbol, value: float, most: Sequence[int] | None = None
    ) -> tuple[nn.Symbol, tuple[int, int]]:
        """Return an image, and the padding that is left to the layer, as much on both sides.

        Parameters
        ----------
        image : Symbol
        value : float
            What the rest of the padding is filled with.
        most : sequence of int, optional
            No more than this is left to the layer.
        """
        if self.is_even(most):
            return image, (self.begin[0], self.begin[1])
        (top, left), (bottom, right) = self.begin, self.end
        layer = nn.ZeroPad2d if value == 0.0 else lambda p: nn.ConstantPad2d(p, value)
        return layer((left, right, top, bottom))(image), (0, 0)


def window(node: Node, x: Value, kernel: Sequence[int]) -> Window:
    """Read strides, dilations and pads; a sequence becomes an image of one row."""
    rank = len(kernel)
    strides = node.wholes("strides") or [1] * rank
    dilations = node.wholes("dilations") or [1] * rank
    pads = node.wholes("pads") or [0] * (2 * rank)
    if not (len(strides) == len(dilations) == rank == x.rank - 2 and len(pads) == 2 * rank):
        raise UnreadableError("kernel, strides, dilations and pads do not fit together")
    if min((*kernel, *strides, *dilations)) < 1 or min(pads) < 0:
        raise UnreadableError("sizes of its windows are not positive")
    found = Window(
        tuple(kernel), tuple(strides), tuple(dilations), tuple(pads[:rank]), tuple(pads[rank:])
    )
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        found = _same(found, x.shape[2:], upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        found = replace(found, begin=(0,) * rank, end=(0,) * rank)
    if rank == 1:
        [k], [s], [d], [b], [e] = (
            found.kernel, found.stride, found.dilation, found.begin, found.end
        )  # fmt: skip
        return Window((1, k), (1, s), (1, d), (0, b), (0, e))
    return found


def _same(w: Window, sizes: Sequence[int], *, upper: bool) -> Window:
    """Pad so that a window starts at every stride."""
    begin, end = [], []
    for n, k, s, d in zip(sizes, w.kernel, w.stride, w.dilation, strict=True):
        total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        first = total // 2 if upper else total - total // 2
        begin.append(first)
        end.append(total - first)
    return replace(w, begin=tuple(begin), end=tuple(end))


def image_of(x: Value) -> nn.Symbol:
    """Return an image (H, W, C); a sequence (L, C) as one of one row."""
    symbol = x.channels_last()
    return symbol if x.rank == 4 else reshaped(symbol, (1, *symbol.shape))


def image_value(x: Value, symbol: nn.Symbol) -> Value:
    """Return the value that a layer made of `image_of`."""
    if x.rank == 4:
        return x.from_channels_last(symbol)
    if len(symbol.shape) == 2:  # what made it knows sequences
        return x.from_channels_last(symbol)
    return replace(x, symbol=symbol, axes=((0,), (3,), (2,)))
