"""Images inside a page."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def png(image: NDArray[Any]) -> str:
    """Return an image ``(H, W, 1 or 3)`` of values in [0, 1] as a data URL.

    Examples
    --------
    >>> png(np.zeros((2, 2, 1)))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    height, width, channels = image.shape
    pixels = (np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # 0: the row as it is
    rows[:, 1:] = pixels.reshape(height, -1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))]
    whole = b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(whole).decode()
