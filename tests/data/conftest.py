"""Small data sets in the real file formats."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def cifar_bytes(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.column_stack([labels, planes]).astype(np.uint8).tobytes()


@pytest.fixture
def idx_arrays() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (7, 5, 3), np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2, 0], np.uint8),
        "x_test": rng.integers(0, 256, (4, 5, 3), np.uint8),
        "y_test": np.array([3, 1, 0, 2], np.uint8),
    }


@pytest.fixture
def write_idx(
    idx_arrays: dict[str, NDArray[np.uint8]],
) -> Callable[[Path, bool], Path]:
    def write(folder: Path, packed: bool) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for part, name in IDX_NAMES.items():
            raw = idx_bytes(idx_arrays[part])
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)
        return folder

    return write


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    """Two training files of three images, one test file of two."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "cifar"
    folder.mkdir()
    for name, count in (("data_batch_2", 3), ("data_batch_10", 3), ("test_batch", 2)):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = np.full(count, 2 if name.endswith("2") else 9, np.uint8)
        (folder / f"{name}.bin").write_bytes(cifar_bytes(images, labels))
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder
