"""Ways to share an affine between what comes before it and what comes after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastbn.export.fold.affine import Affine


@dataclass(frozen=True, slots=True)
class Shares:
    """First ``back`` (into producers), then ``forth`` (into consumers)."""

    name: str
    back: Affine
    forth: Affine


def shares(affine: Affine) -> Iterator[Shares]:
    """Every way of sharing, cheapest first.

    The mixed ones exist because some nodes take only a part: a Relu lets a positive scale
    through backwards but no shift, a padded convolution takes a scale forwards but no shift,
    max pooling no negative scale.
    """
    one = Affine.identity(affine.rank)
    yield Shares("backwards", affine, one)
    yield Shares("forwards", one, affine)
    if affine.scales and affine.shifts:
        if affine.scale.all():
            ahead = Affine.of(np.ones_like(affine.scale), affine.shift / affine.scale)
            if np.isfinite(ahead.shift).all():
                yield Shares("shift backwards", ahead, affine.only_scale())
        yield Shares("scale backwards", affine.only_scale(), affine.only_shift())
    if (affine.scale < 0).any():
        sign = np.where(affine.scale < 0, -1.0, 1.0)
        zero = np.zeros((1,) * affine.rank)
        size = np.abs(affine.scale)
        yield Shares("sign forwards", Affine.of(size, sign * affine.shift), Affine.of(sign, zero))
        yield Shares(
            "sign and shift forwards", Affine.of(size, zero), Affine.of(sign, affine.shift)
        )
