"""Which tensors are measured: those of ResNet-50 at batch 16, small ones, or a file's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BATCH = 16

# The shapes that oneDNN's own benchmark takes from ResNet-50, and three of linear layers.
RESNET50 = (
    "64@112", "64@56", "256@56", "128@28", "512@28", "256@14", "1024@14", "512@7", "2048@7",
    "64x128", "256x1024", "4096x4096",
)  # fmt: skip
SMALL = ("64x128", "256x1024", "16@7", "32@14", "64@7", "256@7")
NORMS = ("64@56", "256@14", "512@7", "256@56", "256x1024", "512x768", "4096x768", "4096x4096")
NAMED = {"resnet50": RESNET50, "small": SMALL, "norms": NORMS}

_IMAGES = re.compile(r"(?:(\d+):)?(\d+)@(\d+)(?:x(\d+))?")
_ROWS = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Shape:
    """N rows (or images of `pixels` = (H, W)) of C channels, written as `name`."""

    name: str
    N: int
    C: int
    pixels: tuple[int, int] | None = None

    def of(self, layout: str) -> tuple[int, ...]:
        """Shape of the array in the layout ``"nchw"``, ``"nhwc"`` or ``"nc"``."""
        if self.pixels is None:
            return (self.N, self.C)
        if layout == "nchw":
            return (self.N, self.C, *self.pixels)
        return (self.N, *self.pixels, self.C)

    def layouts(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the wanted layouts that the shape has."""
        own = ("nc",) if self.pixels is None else ("nchw", "nhwc")
        return tuple(layout for layout in wanted if layout in own)


def parse(text: str) -> Shape:
    """Read a shape: ``C@H``, ``C@HxW`` or ``N:C@HxW`` for images, ``NxC`` for rows.

    Raises
    ------
    ValueError
        If the text is none of these.

    Examples
    --------
    >>> parse("64@112").of("nchw")
    (16, 64, 112, 112)
    >>> parse("2:3@4x5").of("nhwc")
    (2, 4, 5, 3)
    >>> parse("256x1024").of("nc")
    (256, 1024)
    """
    text = text.strip()
    if match := _IMAGES.fullmatch(text):
        batch, channels, height, width = match.groups()
        pixels = (int(height), int(width or height))
        shape = Shape(text, int(batch or BATCH), int(channels), pixels)
    elif match := _ROWS.fullmatch(text):
        shape = Shape(text, int(match[1]), int(match[2]))
    else:
        raise ValueError(f"shape {text!r} is none of C@H, C@HxW, N:C@HxW, NxC")
    if min(shape.N, shape.C, *(shape.pixels or ())) < 1:
        raise ValueError(f"shape {text!r} is empty")
    return shape


def shapes(wanted: str) -> list[Shape]:
    """Return the shapes ``"resnet50"``, ``"small"`` or ``"norms"``, or those of a file.

    Parameters
    ----------
    wanted : str
        A name, or the path of a file with one shape a line (see `parse`); ``#`` begins a comment.

    Raises
    ------
    ValueError
        If there is no such name or file, or the file holds no shapes or something else.
    """
    if wanted in NAMED:
        return [parse(text) for text in NAMED[wanted]]
    path = Path(wanted)
    if not path.is_file():
        raise ValueError(f"shapes: {wanted!r} is neither a file nor one of {', '.join(NAMED)}")
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    found = [parse(line) for line in lines if line]
    if not found:
        raise ValueError(f"shapes: the file {wanted} holds none")
    return found
