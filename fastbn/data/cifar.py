"""The binary version of CIFAR-10: records of one label byte and three 32×32 colour planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastbn.files import require_file

SIZE = 32
CHANNELS = 3
RECORD = 1 + CHANNELS * SIZE * SIZE
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def read_cifar(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one file of records.

    Parameters
    ----------
    path : pathlib.Path
        A ``data_batch_*.bin`` or ``test_batch.bin``.

    Returns
    -------
    images : ndarray of uint8
        ``(N, 32, 32, 3)``, a view of the planes of the file.
    labels : ndarray of uint8
        ``(N,)``.

    Raises
    ------
    ValueError
        If the file is empty, ends inside a record or holds a label over 9. The message has the
        file, the offset and what was expected there.
    """
    raw = np.fromfile(require_file(path), np.uint8)
    records, rest = divmod(raw.size, RECORD)
    if rest or not records:
        raise ValueError(
            f"{path}: offset {records * RECORD}: expected a record of {RECORD} bytes (label, then "
            f"{CHANNELS} planes of {SIZE}×{SIZE}), but the file ends after {rest} of them: "
            "it is truncated or not a CIFAR-10 binary file"
        )
    table = raw.reshape(records, RECORD)
    labels = table[:, 0]
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if wrong.size:
        raise ValueError(
            f"{path}: offset {wrong[0] * RECORD}: expected a label from 0 to {len(CLASSES) - 1}, "
            f"got {labels[wrong[0]]}: not a CIFAR-10 binary file"
        )
    planes = table[:, 1:].reshape(records, CHANNELS, SIZE, SIZE)
    return planes.transpose(0, 2, 3, 1), labels
