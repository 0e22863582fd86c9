"""Do two libraries compute the same? Told from a few numbers of each result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digest = list[list[float]]

TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "bfloat16": 3e-2}


def digest(arrays: Iterable[NDArray[Any]]) -> Digest:
    """Mean and root mean square of every array, which do not depend on the layout.

    Examples
    --------
    >>> digest([np.array([3.0, -3.0])])
    [[0.0, 3.0]]
    """
    result = []
    for array in arrays:
        values = np.asarray(array).astype(np.float64).ravel()
        result.append([float(values.mean()), float(np.sqrt(np.square(values).mean()))])
    return result


def check(
    title: str, ours: Mapping[str, Digest], theirs: Mapping[str, Sequence[Any]], dtype: str
) -> None:
    """Compare digests by operation; names of theirs are ``operation:variant``.

    Raises
    ------
    ValueError
        If a peer does not compute what this library does: its time would mean nothing.
    """
    for name, found in theirs.items():
        expected = ours[name.partition(":")[0]]
        if len(found) != len(expected):
            raise ValueError(f"{title}: {name} returns {len(found)} arrays, not {len(expected)}")
        for (mean, size), (mean0, size0) in zip(found, expected, strict=True):
            worst = max(abs(mean - mean0), abs(size - size0))
            if not worst <= TOLERANCE[dtype] * size0:
                raise ValueError(
                    f"{title}: {name} computes something else (mean {mean:.4g}, rms {size:.4g} "
                    f"instead of {mean0:.4g}, {size0:.4g})"
                )
