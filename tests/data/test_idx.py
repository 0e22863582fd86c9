from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from fastbn.data.idx import read_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
RAW = bytes((0, 0, 8, 3)) + struct.pack(">3I", *ARRAY.shape) + ARRAY.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_contents_decide_about_compression(tmp_path: Path, packed: bool, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(RAW) if packed else RAW)
    np.testing.assert_array_equal(read_idx(path, 3), ARRAY)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", range(len(RAW)))
def test_every_truncation_names_file_offset_and_expectation(
    tmp_path: Path, packed: bool, length: int
) -> None:
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(RAW[:length]) if packed else RAW[:length])
    with pytest.raises(ValueError, match="it is truncated") as caught:
        read_idx(path, 3)
    message = str(caught.value)
    assert message.startswith(f"{path}: offset {length}: expected ")
    expected = "magic number" if length < 4 else "3 sizes" if length < 16 else "24 bytes of data"
    assert expected in message


def test_wrong_magic(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(RAW)
    expected = re.escape(
        f"{path}: offset 0: expected the idx magic number 0x00000801 (unsigned bytes, 1 dimension)"
        ", got 0x00000803"
    )
    with pytest.raises(ValueError, match=expected):
        read_idx(path, 1)


def test_more_than_the_header_tells(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(RAW + b"\0")
    with pytest.raises(ValueError, match=r"offset 40: expected the end of the file after 24 bytes"):
        read_idx(path, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_size_in_the_header_allocates_nothing(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "images"
    raw = RAW[:4] + b"\xff" * 12 + RAW[16:]
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ValueError, match=r"offset 40: expected 79228162458924105385300197375 byte"):
        read_idx(path, 3)


@pytest.mark.parametrize("cut", [5, 12, 20, -9, -8, -1])
def test_truncated_compression(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(RAW)[:cut])
    with pytest.raises(ValueError, match=r"offset \d+ of the unpacked data: expected an intact"):
        read_idx(path, 3)


@pytest.mark.parametrize("position", [12, 30, -6])
def test_damaged_compression(tmp_path: Path, position: int) -> None:
    path = tmp_path / "images.gz"
    packed = bytearray(gzip.compress(RAW))
    packed[position] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=r"images\.gz: offset"):
        read_idx(path, 3)
