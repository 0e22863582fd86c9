"""Image files through Pillow: one file to one array of bytes, many files to one array on the disk.

Decoding releases the interpreter's lock, so threads share it. Every image is written to its place
in a memory-mapped file: besides that, memory holds one image a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastbn import get_num_threads
from fastbn.data.shards import divided

if TYPE_CHECKING:
    from PIL import Image

    from fastbn.distributed import Communicator

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
AT_A_TIME = 1024  # files that wait for a thread
NAMED = 5  # files that one message names
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
ORIENTATION = 0x0112
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
GREY = ("1", "L", "LA", "La", *SIXTEEN_BITS)

T = TypeVar("T")


class Header(NamedTuple):
    """What an image file says of itself, turned upright."""

    height: int
    width: int
    grey: bool


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> NDArray[np.uint8]:
    """Read one image, upright as its EXIF orientation says.

    Parameters
    ----------
    path : path
        JPEG, PNG, BMP or WebP, or whatever else Pillow reads.
    size : (int, int), optional
        Height and width to bring it to: scaled until it covers them, proportions kept, and cut to
        them around its middle. By default its own.
    channels : {1, 3}, optional
        Grey or RGB; by default as the file has it. Transparency is dropped.

    Returns
    -------
    ndarray of uint8, shape (H, W, C)

    Raises
    ------
    ValueError
        If the file is damaged or no image; the message names it.
    OSError
        If it cannot be read.
    ImportError
        If Pillow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (6, 4), (255, 0, 0)).save(Path(folder) / "red.png")
    ...     pixels = read_image(Path(folder) / "red.png", size=(2, 2))
    >>> pixels.shape, pixels[0, 0].tolist()
    ((2, 2, 3), [255, 0, 0])
    """
    from PIL import ImageOps

    with _opened(path) as image:
        if size is not None:
            height, width = size
            # A JPEG is decoded at a half, a quarter or an eighth where that still covers the size.
            image.draft(None, (max(size), max(size)))
        image.load()
        upright = ImageOps.exif_transpose(image)
        upright = _eight_bits(upright, channels)
        if size is not None and upright.size != (width, height):
            upright = ImageOps.fit(upright, (width, height))
        pixels: NDArray[np.uint8] = np.asarray(upright, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read size and kind of an image without decoding it; errors as of `read_image`."""
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION) in TRANSPOSED:
            width, height = height, width
        return Header(height, width, image.mode in GREY)


def for_all(work: Callable[[int], T], count: int, threads: int | None = None) -> list[T]:
    """Do some work for every number below `count`, in threads; its errors are joined in one.

    Raises
    ------
    ValueError
        If some of it failed with a ValueError: how much did, and the first messages.
    """
    results: list[T] = []
    wrong: list[str] = []
    with ThreadPoolExecutor(threads or get_num_threads(), "fastbn-images") as pool:
        for first in range(0, count, AT_A_TIME):
            numbers = range(first, min(first + AT_A_TIME, count))
            for future in [pool.submit(work, number) for number in numbers]:
                try:
                    results.append(future.result())
                except ValueError as error:
                    wrong.append(str(error))
    if wrong:
        more = f"\n… and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ValueError(
            f"{len(wrong)} of {count} images cannot be read; repair or remove them:\n"
            + "\n".join(wrong[:NAMED])
            + more
        )
    return results


def common_shape(
    paths: Sequence[Path],
    size: tuple[int, int] | None,
    channels: int | None,
    communicator: Communicator | None = None,
) -> tuple[int, int, int]:
    """Return the shape ``(H, W, C)`` to which images are brought; ranks look at a share each.

    Raises
    ------
    ValueError
        If images cannot be read, or no size was given and theirs differ.
    """
    if size is not None and channels is not None:
        return (*size, channels)

    def read(numbers: range) -> NDArray[np.int64]:
        headers = for_all(lambda number: read_header(paths[numbers[number]]), len(numbers))
        return np.array(headers, np.int64).reshape(-1, len(Header._fields))

    headers = divided(len(paths), read, communicator)
    if channels is None:
        channels = 1 if headers[:, 2].all() else 3
    if size is None:
        sizes = headers[:, :2].tolist()
        size = sizes[0][0], sizes[0][1]
        others = np.flatnonzero((headers[:, :2] != size).any(axis=1))
        if others.size:
            other = others[0]
            raise ValueError(
                f"Images differ in size, {paths[0]} has {size[0]}×{size[1]} and {paths[other]} "
                f"{sizes[other][0]}×{sizes[other][1]} pixels: give the size to bring them to, "
                f"size={min(min(pair) for pair in sizes)} or size=(height, width)"
            )
    return (*size, channels)


def decode(paths: Sequence[Path], shape: tuple[int, int, int], target: NDArray[np.uint8]) -> None:
    """Decode images to rows of `target`, ``(N, H, W, C)``, in threads.

    Raises
    ------
    ValueError
        If some are damaged; the message names them.
    """
    height, width, channels = shape

    def one(number: int) -> None:
        target[number] = read_image(paths[number], (height, width), channels)

    for_all(one, len(paths))


class ImageFiles:
    """Pixels ``(N, H, W, C)`` of image files, decoded when they are read.

    What was decoded is kept until the memory that it may take is full: where every epoch has
    another order, no image is more likely to be asked for than another.

    Parameters
    ----------
    paths : sequence of Path
    shape : (int, int, int)
        Of one image.
    memory : int
        Bytes that images may take.

    Attributes
    ----------
    decoded : int
        Files that were decoded so far.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int], memory: int) -> None:
        self.paths = paths
        self.shape = (len(paths), *shape)
        self.decoded = 0
        self._room = memory // (shape[0] * shape[1] * shape[2])
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        return self.take(range(len(self))[index])

    def take(self, index: Any, axis: int = 0) -> NDArray[np.uint8]:
        """Return the images of these numbers."""
        numbers = np.asarray(index, np.intp) % max(len(self), 1)  # from the end, where negative
        _, height, width, channels = self.shape
        pixels = np.empty((len(numbers), height, width, channels), np.uint8)
        missing = []
        for row, number in enumerate(numbers.tolist()):
            if (known := self._kept.get(number)) is None:
                missing.append(row)
            else:
                pixels[row] = known
        fresh = np.empty((len(missing), height, width, channels), np.uint8)
        decode([self.paths[numbers[row]] for row in missing], (height, width, channels), fresh)
        self.decoded += len(missing)
        pixels[missing] = fresh
        for row, image in zip(missing, fresh, strict=True):
            if len(self._kept) < self._room:
                self._kept[int(numbers[row])] = image.copy()
        return pixels


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow finds wrong with it is a ValueError that names the file."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError('Images are read by Pillow: pip install "fastbn[data]"') from error
    stream = Path(path).open("rb")  # noqa: SIM115  # errors of the system stay what they are
    with stream:
        try:
            with Image.open(stream) as image:
                yield image
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
        ) as error:
            reason = (
                "no image that Pillow knows"
                if isinstance(error, UnidentifiedImageError)
                else str(error)
            )
            raise ValueError(f"{os.fspath(path)}: {reason}") from None


def _eight_bits(image: Image.Image, channels: int | None) -> Image.Image:
    """Convert to grey ("L") or RGB; sixteen bits lose the lower eight, where Pillow would clip."""
    from PIL import Image

    if image.mode in SIXTEEN_BITS:
        sixteen: NDArray[Any] = np.asarray(image)
        image = Image.fromarray((sixteen >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no range that is known: save 8 bits")
    if channels is None:
        channels = 1 if image.mode in GREY else 3
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)
