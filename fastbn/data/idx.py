"""The idx format of MNIST and its relatives: a big-endian header, then unsigned bytes.

The header is 0, 0, the element type (8: unsigned byte), the number of dimensions, and one 32-bit
size for each of them. Compression is told from a file's first bytes, not from its name: browsers
unpack a ``.gz`` and keep its name.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.budgets import allowed_memory, require_memory
from fastbn.files import require_file

UNSIGNED_BYTE = 8
CHUNK = 1 << 20
# Bytes in memory for every byte: itself, and the float32 it becomes. MNIST takes 235 MB.
AS_FLOATS = 5
FLOOR = 512 << 20


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzip-compressed.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    ndim : int
        Expected number of dimensions: 3 for grey images, 1 for labels.

    Returns
    -------
    ndarray of uint8
        The elements, in the shape the header tells.

    Raises
    ------
    ValueError
        If the file is truncated, longer than its header tells or of another kind. The message has
        the file, the offset (in the unpacked data) and what was expected there. Also if it unpacks
        to more than `fastbn.budgets` allow.
    """
    with require_file(path).open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
            return _read(stream, path, ndim)


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path, ndim: int) -> NDArray[np.uint8]:
    magic = bytes((0, 0, UNSIGNED_BYTE, ndim))
    found = _take(stream, path, 0, len(magic), "the magic number")
    if found != magic:
        raise ValueError(
            f"{path}: offset 0: expected the idx magic number 0x{magic.hex()} "
            f"(unsigned bytes, {ndim} dimension{'s' if ndim > 1 else ''}), got 0x{found.hex()}"
        )
    header = _take(stream, path, len(magic), 4 * ndim, f"{ndim} sizes of 4 bytes")
    shape = struct.unpack(f">{ndim}I", header)
    start = len(magic) + len(header)
    # Python's integers: a hostile header must not overflow, nor decide how much is allocated.
    count = 1
    for size in shape:
        count *= size
    body = _take(stream, path, start, count, f"{count} bytes of data for shape {shape}")
    if _some(stream, path, start + count, 1):
        raise ValueError(
            f"{path}: offset {start + count}: expected the end of the file after {count} bytes of "
            f"data for shape {shape}, found more"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _take(stream: Any, path: Path, offset: int, count: int, what: str) -> bytearray:
    """Read exactly `count` bytes, at most CHUNK more of memory than the file really has."""
    body = bytearray()
    packed = path.stat().st_size
    while len(body) < count:
        if len(body) * AS_FLOATS > allowed_memory(packed, FLOOR):
            require_memory(count * AS_FLOATS, packed, f"{path}, unpacked,", FLOOR)
        chunk = _some(stream, path, offset + len(body), min(CHUNK, count - len(body)))
        if not chunk:
            raise ValueError(
                f"{path}: offset {offset + len(body)}: expected {what} from offset {offset}, "
                f"but the file ends after {len(body)} of {count} bytes: it is truncated"
            )
        body += chunk
    return body


def _some(stream: Any, path: Path, offset: int, count: int) -> bytes:
    """Read up to `count` bytes; damage to the compression is told like any other damage."""
    try:
        return bytes(stream.read(count))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: offset {offset} of the unpacked data: expected an intact gzip stream, "
            f"got: {error}"
        ) from error
