"""A folder of images: one subfolder for each class, with or without ``train/`` and ``test/``."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.data.dataset import Dataset
from fastbn.data.images import SUFFIXES, ImageFiles, common_shape, decode
from fastbn.data.rows import Rows, Samples
from fastbn.data.shards import local_size
from fastbn.data.split import Split, split_rows
from fastbn.files import atomic, cache_dir

if TYPE_CHECKING:
    from fastbn.distributed import Communicator

PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
CACHE_VERSION = 1  # raised when the same files give other bytes
SHARE_OF_MEMORY = 0.25  # images that take more, as float32, stay on the disk

log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """Image files, sorted by class and name, and their labels."""

    paths: list[Path]
    labels: NDArray[np.int64]


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder has subfolders that hold images."""
    top = _part(folder, "train") or folder
    return any(True for name in _subfolders(top) for _ in _images(top / name))


def read_image_folder(
    folder: Path,
    name: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Split | None = None,
    communicator: Communicator | None = None,
) -> Dataset:
    """Read a folder of images; see `fastbn.data.load`.

    Pixels are decoded once and kept in the cache, ``images/`` in `cache_dir`, under a name made of
    all paths, times and sizes of the files and of how they are read. With several ranks, each
    decodes its part of every batch instead, unless the cache of its machine has them.
    """
    training = _part(folder, "train")
    classes = _classes(training or folder)
    parts = {"train": _listing(training or folder, classes)}
    if training is not None:
        for part in ("val", "test"):
            place = _part(folder, part)
            if place is not None:
                parts[part] = _listing(place, classes)
    if "test" in parts and split is not None:
        raise ValueError(f"{folder}: has a test part, so there is nothing to split")

    paths = [path for listing in parts.values() for path in listing.paths]
    labels = np.concatenate([listing.labels for listing in parts.values()])
    rows, first = {}, 0
    for part, listing in parts.items():
        rows[part] = np.arange(first, first + len(listing.paths))
        first += len(listing.paths)
    if "test" not in rows:
        fraction, seed = split or Split()
        candidates = rows["train"]
        kept, held_out = split_rows(labels[candidates], fraction, seed, stratify=True)
        rows |= {"train": candidates[kept], "test": candidates[held_out]}

    pixels: NDArray[np.uint8] | ImageFiles
    if shared := communicator is not None and communicator.size > 1:
        pixels = _pixels_of_ranks(folder, paths, size, channels, communicator)
    else:
        pixels = _pixels(folder, paths, size, channels)
    x: dict[str, Samples] = {part: Rows(pixels).take(chosen) for part, chosen in rows.items()}
    as_floats = math.prod(pixels.shape) * np.dtype(np.float32).itemsize
    if not shared and as_floats <= _memory() * SHARE_OF_MEMORY:
        x = {part: images[:] for part, images in x.items()}
    return Dataset(
        x["train"],
        labels[rows["train"]],
        x["test"],
        labels[rows["test"]],
        tuple(classes),
        name,
        x.get("val"),
        labels[rows["val"]] if "val" in rows else None,
    )


def _part(folder: Path, part: str) -> Path | None:
    """Return the subfolder of a part, if there is one."""
    places = (folder / name for name in PARTS[part])
    return next((place for place in places if place.is_dir()), None)


def _images(folder: Path) -> Iterator[Path]:
    """Find image files in a folder and below; hidden ones are not looked at."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    visible = (path for path in found if not _hidden(path.relative_to(folder)))
    return (path for path in visible if path.is_file())


def _hidden(path: Path) -> bool:
    return any(name.startswith(".") for name in path.parts)


def _subfolders(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _listing(folder: Path, classes: Sequence[str]) -> Listing:
    """List the images of a part by class.

    Raises
    ------
    ValueError
        If a class has no images, or is none of the training part's.
    """
    unknown = [name for name in _subfolders(folder) if name not in classes]
    if unknown:
        raise ValueError(
            f"{folder}: classes {', '.join(unknown)} are not in the training part, "
            f"which has {', '.join(classes)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(_images(folder / name))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"{folder}: there are no images ({', '.join(SUFFIXES)})")
    return Listing(paths, np.array(labels, np.int64))


def _classes(folder: Path) -> list[str]:
    """Return the classes of the training part: its subfolders.

    Raises
    ------
    ValueError
        If one of them holds no images, or there is but one.
    """
    classes = _subfolders(folder)
    empty = [name for name in classes if next(_images(folder / name), None) is None]
    if empty:
        raise ValueError(
            f"{folder}: expected images ({', '.join(SUFFIXES)}) in the folder of every class, "
            f"found none in {', '.join(empty)}"
        )
    if len(classes) < 2:
        raise ValueError(f"{folder}: expected at least two classes, found {', '.join(classes)}")
    return classes


def _pixels(
    folder: Path, paths: Sequence[Path], size: tuple[int, int] | None, channels: int | None
) -> NDArray[np.uint8]:
    """Return the pixels of all images ``(N, H, W, C)``: from the cache, or decoded into it."""
    place = _cache_file(folder, _stats(folder, paths), size, channels)
    cached = _cached(place, len(paths))
    if cached is not None:
        return cached
    shape = (len(paths), *common_shape(paths, size, channels))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic(place) as temporary:
            target = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            _reserve(temporary)
            decode(paths, shape[1:], target)
            target.flush()
            del target
    except OSError as error:
        log.warning("%s: images are not kept (%s); FASTBN_CACHE names another place", place, error)
        pixels = np.empty(shape, np.uint8)
        decode(paths, shape[1:], pixels)
        return pixels
    prefix = place.name.partition("-")[0]
    for old in place.parent.glob(f"{prefix}-*.npy"):  # of the same folder, as it was before
        if old != place:
            with contextlib.suppress(OSError):
                old.unlink()
    return np.load(place, mmap_mode="r")  # type: ignore[no-any-return]


def _pixels_of_ranks(
    folder: Path,
    paths: Sequence[Path],
    size: tuple[int, int] | None,
    channels: int | None,
    communicator: Communicator,
) -> NDArray[np.uint8] | ImageFiles:
    """Return the pixels of all images ``(N, H, W, C)``: from the cache, or files to decode.

    Raises
    ------
    ValueError
        On all ranks, if they see different files.
    """
    files = _stats(folder, paths)
    seen = sha256(json.dumps([(name, length) for name, _, length in files]).encode()).digest()
    told = communicator.allgather(np.frombuffer(seen, np.uint8))
    other = [str(rank) for rank, each in enumerate(told) if each.tobytes() != told[0].tobytes()]
    if other:
        raise ValueError(
            f"{folder}: rank {', '.join(other)} sees other files there, or of other sizes, than "
            "rank 0: every machine needs the same folder"
        )
    shape = common_shape(paths, size, channels, communicator)
    memory = int(_memory() * SHARE_OF_MEMORY) // local_size(communicator)
    cached = _cached(_cache_file(folder, files, size, channels), len(paths))
    return ImageFiles(paths, shape, memory) if cached is None else cached


def _stats(folder: Path, paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return name, time and size of every file."""
    stats = ((path, path.stat()) for path in paths)
    return [
        (path.relative_to(folder).as_posix(), stat.st_mtime_ns, stat.st_size)
        for path, stat in stats
    ]


def _cache_file(
    folder: Path,
    files: Sequence[tuple[str, int, int]],
    size: tuple[int, int] | None,
    channels: int | None,
) -> Path:
    how = [CACHE_VERSION, size, channels]
    prefix = sha256(json.dumps([str(folder.resolve()), how]).encode()).hexdigest()[:16]
    key = sha256(json.dumps([how, files]).encode()).hexdigest()[:32]
    return cache_dir() / "images" / f"{prefix}-{key}.npy"


def _cached(place: Path, count: int) -> NDArray[np.uint8] | None:
    """Return what the cache has, unless it is damaged."""
    try:
        pixels: NDArray[np.uint8] = np.load(place, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    whole = pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == count
    return pixels if whole else None


def _reserve(path: Path) -> None:
    """Have the disk's blocks before they are written: a full disk is an error here, a crash there.

    A memory-mapped file is one of holes, and the process is killed where none can be filled.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def _memory() -> int:
    """Return the bytes of this machine's memory, or 4 GB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 32
