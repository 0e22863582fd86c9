"""The per-channel affine y = scale · x + shift, in float64.

An inference BatchNorm is one of these. Scale and shift have the rank of the tensor they act on;
along every axis they have either its full length or 1. A BatchNorm of (N, C, H, W) starts as
(1, C, 1, 1); after a Flatten it is (1, C·H·W), between a Reshape and a Transpose it may vary along
two axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a failure
    """An affine cannot be moved here; the text says why, for the report."""


# What planning may run into in a graph that the checker lets pass though it cannot run: a group
# count of zero, weights of the wrong rank. Nothing was changed then, and the node stays.
MALFORMED = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, MemoryError)


def _collapse(values: Array) -> Array:
    """Give every axis along which nothing changes the length 1."""
    for axis, length in enumerate(values.shape):
        if length > 1:
            first = values.take([0], axis=axis)
            if (values == first).all():
                values = first
    return values


@dataclass(frozen=True, slots=True)
class Affine:
    """scale · x + shift; both arrays have the rank of x and broadcast against it.

    >>> Affine.along([2.0, 3.0], [1.0, 0.0], axis=1, rank=4).scale.shape
    (1, 2, 1, 1)
    """

    scale: Array
    shift: Array

    @staticmethod
    def of(scale: ArrayLike, shift: ArrayLike) -> Affine:
        """Build from arrays of equal rank; axes without variation collapse to length 1."""
        return Affine(
            _collapse(np.asarray(scale, dtype=np.float64)),
            _collapse(np.asarray(shift, dtype=np.float64)),
        )

    @staticmethod
    def along(scale: ArrayLike, shift: ArrayLike, *, axis: int, rank: int) -> Affine:
        """Build from vectors that run along one axis of a tensor of the given rank."""
        shape = [1] * rank
        shape[axis] = -1
        return Affine.of(
            np.asarray(scale, dtype=np.float64).reshape(shape),
            np.asarray(shift, dtype=np.float64).reshape(shape),
        )

    @staticmethod
    @cache
    def identity(rank: int) -> Affine:
        """Make the affine that does nothing: scale 1, shift 0."""
        one, zero = np.ones((1,) * rank), np.zeros((1,) * rank)
        one.flags.writeable = zero.flags.writeable = False
        return Affine(one, zero)

    @property
    def rank(self) -> int:
        """Rank of the tensor it acts on."""
        return self.scale.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Common shape of scale and shift: the axes along which something varies."""
        return np.broadcast_shapes(self.scale.shape, self.shift.shape)

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing."""
        return not self.scales and not self.shifts

    @property
    def scales(self) -> bool:
        """Whether some scale differs from 1."""
        return bool((self.scale != 1.0).any())

    @property
    def shifts(self) -> bool:
        """Whether some shift differs from 0."""
        return bool((self.shift != 0.0).any())

    def then(self, after: Affine) -> Affine:
        """First this, then ``after``."""
        return Affine.of(after.scale * self.scale, after.scale * self.shift + after.shift)

    def inverse(self) -> Affine:
        """Undo it: (y − t) / s.

        Raises
        ------
        Refused
            If a scale is zero, or so small that the inverse overflows.
        """
        if not self.scale.all():
            raise Refused("a scale is zero")
        with np.errstate(over="ignore"):
            scale, shift = 1.0 / self.scale, -self.shift / self.scale
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise Refused("a scale is almost zero")
        return Affine.of(scale, shift)

    def only_scale(self) -> Affine:
        """Drop the shift."""
        return Affine(self.scale, np.zeros((1,) * self.rank))

    def only_shift(self) -> Affine:
        """Drop the scale."""
        return Affine(np.ones((1,) * self.rank), self.shift)

    def transpose(self, permutation: Sequence[int]) -> Affine:
        """Reorder the axes like ONNX Transpose."""
        return Affine(self.scale.transpose(permutation), self.shift.transpose(permutation))

    def part(self, axis: int, start: int, stop: int) -> Affine:
        """Restrict to ``start:stop`` along an axis; where nothing varies, nothing changes."""

        def cut(values: Array) -> Array:
            if values.shape[axis] == 1:
                return values
            return values[(slice(None),) * axis + (slice(start, stop),)]

        return Affine.of(cut(self.scale), cut(self.shift))

    def full(self, shape: Sequence[int]) -> tuple[Array, Array]:
        """Scale and shift with every axis at the given length."""
        return np.broadcast_to(self.scale, shape), np.broadcast_to(self.shift, shape)

    def vector(self, axis: int, length: int) -> tuple[Array, Array]:
        """Scale and shift as vectors along the only axis they vary along.

        Raises
        ------
        Refused
            If they vary along another axis, or have another length.
        """
        for other, size in enumerate(self.shape):
            if size > 1 and other != axis:
                raise Refused(f"it would differ along axis {other}, not only along {axis}")
        if self.shape[axis] not in (1, length):
            raise Refused(f"it has {self.shape[axis]} channels where the node has {length}")
        return (
            np.broadcast_to(self.scale.reshape(-1), (length,)),
            np.broadcast_to(self.shift.reshape(-1), (length,)),
        )


def from_batch_norm(
    scale: ArrayLike, bias: ArrayLike, mean: ArrayLike, var: ArrayLike, epsilon: float
) -> tuple[Array, Array]:
    """Scale and shift of an inference BatchNorm (Ioffe and Szegedy 2015, algorithm 2, step 11).

    s = γ / sqrt(σ² + ε), t = β − μ·s, in float64 whatever the parameters' type.

    Raises
    ------
    Refused
        If a parameter is not finite, σ² + ε ≤ 0, or the result overflows.
    """
    gamma, beta, mu, variance = (np.asarray(p, np.float64) for p in (scale, bias, mean, var))
    with np.errstate(all="ignore"):
        spread = variance + epsilon
        s = gamma / np.sqrt(spread)
        t = beta - mu * s
        is_usable = np.isfinite(s + t) & (spread > 0) & (spread < np.inf)
    if is_usable.all():
        return s, t
    for name, values in (("scale", gamma), ("bias", beta), ("mean", mu), ("var", variance)):
        if not np.isfinite(values).all():
            raise Refused(f"its {name} is not finite")
    if not (spread > 0).all():
        raise Refused("var + epsilon is not positive")
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        raise Refused("scale / sqrt(var + epsilon) overflows")
    return s, t


def fits(values: Array, dtype: np.dtype[Any], what: str, *, infinite: bool = False) -> None:
    """Refuse values that overflow the type they are going to be stored in.

    ``infinite`` allows infinity itself (an open bound), not an overflow of a finite number.
    """
    limit = largest(dtype)
    if np.abs(values).max(initial=0.0) <= limit:  # false for NaN
        return
    finite = values[np.isfinite(values)]
    if np.isnan(values).any() or (not infinite and finite.size != values.size):
        raise Refused(f"{what} would not be finite")
    if finite.size and float(np.abs(finite).max()) > limit:
        raise Refused(f"{what} would overflow {dtype.name}")


@cache
def largest(dtype: np.dtype[Any]) -> float:
    """Largest finite number of a floating-point type, bfloat16 included."""
    if dtype.name == "bfloat16":
        return 3.3895313892515355e38
    return float(np.finfo(dtype).max)


def store(values: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round float64 once to the type of the file; subnormal float32 results become 0.

    Dead channels give such numbers, and processors compute with them several times slower.
    float16's own subnormals are kept: they are ordinary numbers wherever they are computed with.
    """
    with np.errstate(under="ignore", over="ignore"):
        return np.where(np.abs(values) < _floor(dtype), 0.0, values).astype(dtype)


@cache
def _floor(dtype: np.dtype[Any]) -> float:
    """Smallest size that is kept."""
    if dtype == np.float16:
        return 0.0
    wide = np.float64 if dtype == np.float64 else np.float32
    return float(np.finfo(wide).smallest_normal)
