"""Sliding windows of any rank in plain NumPy: convolution and pooling, one tap at a time.

A *tap* is one position inside the kernel. Looping over the taps, and not over the output, keeps
the loop short (49 turns for 7×7), needs no im2col buffer and leaves the work to BLAS.
Arrays are channels-first as in ONNX: x (N, C, *spatial). Formulas: ONNX operator specification.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Geometry of a sliding window over the spatial axes.

    Attributes
    ----------
    kernel, strides, dilations : tuple of int
        One entry per spatial axis.
    begin, end : tuple of int
        Padding in front of and after every axis.
    size : tuple of int
        Number of windows along every axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    size: tuple[int, ...]

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Every position inside the kernel, in storage order."""
        return itertools.product(*(range(k) for k in self.kernel))

    def extent(self) -> tuple[int, ...]:
        """Length of the padded axis that the windows reach."""
        return tuple(
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(self.size, self.strides, self.kernel, self.dilations, strict=True)
        )

    def slices(self, tap: Sequence[int]) -> tuple[slice, ...]:
        """Where ``tap`` meets the padded axes: one element for every window."""
        return tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, self.dilations, self.size, self.strides, strict=True)
        )


def windows(
    spatial: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str | None = None,
    ceil_mode: bool = False,
) -> Windows:
    """Work out padding and number of windows as ONNX defines them.

    >>> windows((5,), (3,), pads=(1, 1), strides=(2,)).size
    (3,)
    >>> windows((5,), (2,), auto_pad="SAME_UPPER").end
    (1,)
    """
    rank = len(kernel)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    begin, end, size = [], [], []
    for axis, (n, k, s, d) in enumerate(zip(spatial, kernel, strides, dilations, strict=True)):
        reach = (k - 1) * d + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-n // s)
            total = max((count - 1) * s + reach - n, 0)
            before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after = total - before
        else:
            before, after = (pads[axis], pads[axis + rank]) if pads is not None else (0, 0)
            if auto_pad == "VALID":
                before = after = 0
            free = n + before + after - reach
            count = (-(-free // s) if ceil_mode else free // s) + 1
            # The last window has to start on the data or the padding in front of it.
            if ceil_mode and (count - 1) * s >= n + before:
                count -= 1
        begin.append(before)
        end.append(after)
        size.append(count)
    return Windows(tuple(kernel), strides, dilations, tuple(begin), tuple(end), tuple(size))


def pad(x: Array, w: Windows, fill: float) -> Array:
    """Put ``fill`` around x, and after it as far as the last window of ceil mode reaches."""
    behind = [
        max(reach - n - b, 0) for reach, n, b in zip(w.extent(), x.shape[2:], w.begin, strict=True)
    ]
    around = [(0, 0), (0, 0), *zip(w.begin, behind, strict=True)]
    if not any(b or e for b, e in around):
        return x
    return np.pad(x, around, constant_values=fill)


def conv(x: Array, weight: Array, bias: Array | None, w: Windows, groups: int = 1) -> Array:
    """Convolution: x (N, C, *spatial), weight (O, C/groups, *kernel) -> (N, O, *size)."""
    n, c = x.shape[:2]
    o = weight.shape[0]
    padded = pad(x, w, 0.0)
    y = np.zeros((n, groups, o // groups, int(np.prod(w.size))), dtype=x.dtype)
    taps = weight.reshape(groups, o // groups, c // groups, -1)
    for index, tap in enumerate(w.taps()):
        part = padded[:, :, *w.slices(tap)]
        y += taps[..., index] @ part.reshape(n, groups, c // groups, -1)
    y = y.reshape(n, o, *w.size)
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * len(w.size))


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    groups: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
    size: Sequence[int],
) -> Array:
    """Transposed convolution: x (N, C, *spatial), weight (C, O/groups, *kernel) -> (N, O, *size).

    ``begin`` is cropped in front, ``size`` says where the output ends.
    """
    n, c = x.shape[:2]
    kernel = weight.shape[2:]
    o = weight.shape[1] * groups
    full = Windows(
        kernel,
        tuple(strides),
        tuple(dilations),
        (0,) * len(kernel),
        (0,) * len(kernel),
        x.shape[2:],
    )
    reach = [max(e, b + length) for e, b, length in zip(full.extent(), begin, size, strict=True)]
    y = np.zeros((n, o, *reach), dtype=x.dtype)
    taps = weight.reshape(groups, c // groups, o // groups, -1)
    flat = x.reshape(n, groups, c // groups, -1)
    for index, tap in enumerate(full.taps()):
        part = taps[..., index].swapaxes(1, 2) @ flat
        y[:, :, *full.slices(tap)] += part.reshape(n, o, *x.shape[2:])
    crop = tuple(slice(b, b + length) for b, length in zip(begin, size, strict=True))
    y = y[:, :, *crop]
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * len(kernel))


def max_pool(x: Array, w: Windows) -> Array:
    """Maximum of every window; padding never wins."""
    padded = pad(x, w, -np.inf)
    y = np.full((*x.shape[:2], *w.size), -np.inf, dtype=x.dtype)
    for tap in w.taps():
        np.maximum(y, padded[:, :, *w.slices(tap)], out=y)
    return y


def avg_pool(x: Array, w: Windows, count_include_pad: bool) -> Array:
    """Mean of every window; padding counts only if asked, overhang of ceil mode never."""
    ones = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if count_include_pad:
        around = [(0, 0), (0, 0), *zip(w.begin, w.end, strict=True)]
        counted = np.pad(ones, around, constant_values=1.0)
        behind = [max(e - n, 0) for e, n in zip(w.extent(), counted.shape[2:], strict=True)]
        counted = np.pad(counted, [(0, 0), (0, 0), *((0, b) for b in behind)])
    else:
        counted = pad(ones, w, 0.0)
    padded = pad(x, w, 0.0)
    y = np.zeros((*x.shape[:2], *w.size), dtype=x.dtype)
    count = np.zeros((1, 1, *w.size), dtype=x.dtype)
    for tap in w.taps():
        y += padded[:, :, *w.slices(tap)]
        count += counted[:, :, *w.slices(tap)]
    return y / count
