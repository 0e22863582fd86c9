"""Finding and reading a data set: by name in the usual places, or from a directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastbn.data.cifar import CLASSES as CIFAR_CLASSES
from fastbn.data.cifar import read_cifar
from fastbn.data.dataset import Dataset
from fastbn.data.folder import is_image_folder, read_image_folder
from fastbn.data.idx import read_idx
from fastbn.data.split import as_split
from fastbn.data.tables import SUFFIXES, is_table, read_table
from fastbn.files import cache_dir

if TYPE_CHECKING:
    from fastbn.distributed import Communicator

NAMES = ("digits", "mnist", "cifar10")
FOLDERS = {"mnist": Path("mnist"), "cifar10": Path("cifar10", "cifar-10-batches-bin")}
IDX_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
CIFAR_TRAINING_FILES = 5

log = logging.getLogger(__name__)


def load(
    name_or_path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    split: float | tuple[float, int] | None = None,
    target: str | None = None,
    missing: str = "impute",
    communicator: Communicator | None = None,
) -> Dataset:
    """Read a data set.

    Parameters
    ----------
    name_or_path : str or path
        One of

        - ``"digits"`` (1,797 images of 8×8, part of scikit-learn), ``"mnist"``, ``"cifar10"``;
        - a folder with four idx files (MNIST's names, plain or ``.gz``; Fashion-MNIST has them,
          too) or with ``data_batch_*.bin`` and ``test_batch.bin`` of CIFAR-10's binary version.
          Any number of training batches will do; how many images were found is logged, as a
          warning where it is fewer than the complete set's;
        - a folder of images (JPEG, PNG, BMP, WebP) with a subfolder for each class, or with
          ``train/`` and, if there are such parts, ``val/`` and ``test/`` that have them;
        - a table: a ``.csv``, ``.tsv`` (also ``.gz``) or ``.parquet`` file, its columns named.
    root : str or path, optional
        Searched first for a named set, before ``$FASTBN_DATA`` and the cache (``$FASTBN_CACHE`` or
        ``~/.cache/fastbn``); each of them holds ``mnist/`` and ``cifar10/cifar-10-batches-bin/``.
    size : int or (int, int), optional
        Height and width that image files are brought to: scaled until they cover it, and cut
        around the middle. By default their own, which all must share.
    channels : {1, 3}, optional
        Whether image files are read as grey or RGB; by default grey if all are.
    split : float, int or (float, int), optional
        Of image files and tables without a test part: the share of every class that is kept as
        one, the seed of the choice, or both; by default ``(0.2, 0)``.
    target : str, optional
        Of a table: the column to predict. Words and whole numbers of at most 20 values are
        classes, other numbers are numbers.
    missing : {"impute", "refuse"}
        Of a table: fill missing values, and say so in the log, or refuse them. Rows without target
        are dropped.
    communicator : Communicator, optional
        Other ranks, who all call this. Of a folder of images each decodes what it needs when it
        needs it, its part of every batch; other data are read whole by every rank.

    Returns
    -------
    Dataset
        Images channels-last float32 in [0, 1], labels int64. Image files that take more than a
        quarter of the memory stay on the disk, as `Rows`. The test set of digits is the last 20 %
        after ``numpy.random.default_rng(0).permutation``. A table gives ``x`` as its
        `Dataset.columns` made it of the rows, fitted on the training part; `Dataset.normalized`
        brings its columns to one scale.

    Raises
    ------
    FileNotFoundError
        If there is no such data; the message lists where it was looked for and how to get it.
    ValueError
        If the name is unknown, an argument is not for such data, or files are truncated, damaged
        or of another kind; the message has file, offset and what was expected there.
    ImportError
        If what reads the data is not installed: scikit-learn for digits, Pillow for images, pandas
        for tables.

    Examples
    --------
    >>> data = load("digits")
    >>> data.x_train.shape, data.x_test.shape, data.classes[:3]
    ((1437, 8, 8, 1), (360, 8, 8, 1), ('0', '1', '2'))
    """
    name = os.fspath(name_or_path)
    options = {"size": size, "channels": channels, "split": split, "target": target}
    given = [option for option, value in options.items() if value is not None]
    if name == "digits":
        _allow(name, given)
        return _digits()
    if name in FOLDERS:
        _allow(name, given)
        return _read_folder(locate(name, root), name)
    path = Path(name).expanduser()
    if path.is_dir():
        if _has_image_files(path):
            _allow(name, given, "size", "channels", "split")
            return read_image_folder(
                path,
                path.resolve().name,
                size=_size(size),
                channels=_channels(channels),
                split=None if split is None else as_split(split),
                communicator=communicator,
            )
        _allow(name, given)
        return _read_folder(path, path.resolve().name)
    if is_table(path):
        _allow(name, given, "target", "split")
        return read_table(
            path, target, split=None if split is None else as_split(split), missing=missing
        )
    raise ValueError(
        f"No data set, folder or table {name!r}: expected one of {', '.join(NAMES)}, or a folder "
        "with a subfolder of images for each class, with idx files or with CIFAR-10 .bin files, "
        f"or a table ({', '.join(SUFFIXES)})"
    )


def load_for(name_or_path: str | os.PathLike[str], shape: Sequence[int] | None) -> Dataset:
    """Read a data set for a network: image files are brought to its input shape ``(H, W, C)``."""
    path = Path(name_or_path).expanduser()
    if shape is None or len(shape) != 3 or not _has_image_files(path):
        return load(name_or_path)
    height, width, channels = shape
    return load(path, size=(height, width), channels=channels if channels in (1, 3) else None)


def _has_image_files(path: Path) -> bool:
    return path.is_dir() and _kind(path) is None and is_image_folder(path)


def _allow(name: str, given: Sequence[str], *allowed: str) -> None:
    """Refuse arguments that are not for the kind of data."""
    wrong = [option for option in given if option not in allowed]
    if wrong:
        raise ValueError(
            f"{name}: does not take {', '.join(wrong)}: size and channels are for folders of "
            "images, target is for tables, split for both"
        )


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size should be a positive number or (height, width), but got {size!r}")
    return pair[0], pair[1]


def _channels(channels: int | None) -> int | None:
    if channels not in (None, 1, 3):
        raise ValueError(f"channels should be 1 (grey) or 3 (RGB), but got {channels}")
    return channels


def search_path(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Directories that are searched for a named data set, in this order.

    Parameters
    ----------
    root : str or path, optional
        Comes first where given.

    Returns
    -------
    list of pathlib.Path
        `root`, ``$FASTBN_DATA``, and ``$FASTBN_CACHE`` or ``~/.cache/fastbn``.
    """
    given = (root, os.environ.get("FASTBN_DATA"))
    return [*(Path(folder).expanduser() for folder in given if folder), cache_dir()]


def locate(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Return the first folder on the search path that has files of the set `name`.

    Parameters
    ----------
    name : {"mnist", "cifar10"}
        Which one.
    root : str or path, optional
        Searched first.

    Returns
    -------
    pathlib.Path
        The folder with the files themselves.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists where it was looked for and how to get it.
    """
    folders = [base / FOLDERS[name] for base in search_path(root)]
    for folder in folders:
        if _kind(folder):
            return folder
    raise FileNotFoundError(
        f"No {name} in {', '.join(map(str, folders))}; get it with `fastbn data fetch {name}`, "
        "or set FASTBN_DATA to the directory that holds it"
    )


def _kind(folder: Path) -> str | None:
    """Tell by the names of its files what a folder holds: ``"idx"``, ``"bin"`` or nothing."""
    if any(_idx_files(folder, part) for part in IDX_PARTS):
        return "idx"
    if any(folder.glob("data_batch_*.bin")) or (folder / "test_batch.bin").is_file():
        return "bin"
    return None


def _read_folder(folder: Path, name: str) -> Dataset:
    kind = _kind(folder)
    if kind == "idx":
        return _read_idx_folder(folder, name)
    if kind == "bin":
        return _read_cifar_folder(folder, name)
    raise FileNotFoundError(
        f"{folder}: expected a subfolder of images for each class, idx files "
        f"({IDX_PARTS[0]}-ubyte[.gz], …) or CIFAR-10 files (data_batch_*.bin, test_batch.bin), "
        "found none of them"
    )


def _idx_files(folder: Path, part: str) -> list[Path]:
    """Files that can be `part`: plain before packed, ``images-idx3`` or ``images.idx3``."""
    stems = (f"{part}-ubyte", f"{part.replace('-idx', '.idx')}-ubyte")
    names = [stem + suffix for suffix in ("", ".gz") for stem in stems]
    return [folder / name for name in names if (folder / name).is_file()]


def _read_idx_folder(folder: Path, name: str) -> Dataset:
    paths = []
    for part in IDX_PARTS:
        found = _idx_files(folder, part)
        if not found:
            raise FileNotFoundError(f"{folder}: expected {part}-ubyte or {part}-ubyte.gz")
        paths.append(found[0])
    arrays = [read_idx(path, 3 if "images" in path.name else 1) for path in paths]
    for images, labels in ((0, 1), (2, 3)):
        if not len(arrays[images]):
            raise ValueError(f"{paths[images]}: offset 4: expected at least one image, got 0")
        if len(arrays[images]) != len(arrays[labels]):
            raise ValueError(
                f"{paths[labels]}: offset 4: expected {len(arrays[images])} labels, as many as "
                f"there are images in {paths[images].name}, got {len(arrays[labels])}"
            )
    x_train, y_train, x_test, y_test = arrays
    # idx files carry no names; the labels of both parts tell how many classes there are.
    classes = tuple(str(label) for label in range(1 + max(int(y_train.max()), int(y_test.max()))))
    return Dataset(
        _scaled([x_train[..., None]]),
        y_train.astype(np.int64),
        _scaled([x_test[..., None]]),
        y_test.astype(np.int64),
        classes,
        name,
    )


def _read_cifar_folder(folder: Path, name: str) -> Dataset:
    test = folder / "test_batch.bin"
    if not test.is_file():
        raise FileNotFoundError(f"{folder}: expected test_batch.bin beside data_batch_*.bin")
    training = sorted(folder.glob("data_batch_*.bin"), key=lambda path: (len(path.name), path.name))
    if not training:
        raise FileNotFoundError(f"{folder}: expected data_batch_1.bin … data_batch_5.bin")
    parts = [read_cifar(path) for path in training]
    x_test, y_test = read_cifar(test)
    data = Dataset(
        _scaled([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]).astype(np.int64),
        _scaled([x_test]),
        y_test.astype(np.int64),
        CIFAR_CLASSES,
        name,
    )
    log.log(
        logging.WARNING if len(training) < CIFAR_TRAINING_FILES else logging.INFO,
        "%s: found %d of %d training files, %s training and %s test images",
        folder,
        len(training),
        CIFAR_TRAINING_FILES,
        f"{len(data.x_train):,}",
        f"{len(data.x_test):,}",
    )
    return data


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'The digits data set is part of scikit-learn: pip install "fastbn[data]"'
        ) from error
    digits = load_digits()
    images = np.divide(digits.images, 16.0).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = np.split(order, [int(0.8 * len(order))])
    classes = tuple(str(label) for label in range(10))
    return Dataset(images[train], labels[train], images[test], labels[test], classes, "digits")


def _scaled(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Join images ``(N_i, H, W, C)`` of bytes to one contiguous array of values in [0, 1]."""
    joined = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.float32)
    first = 0
    for part in parts:
        np.divide(part, 255, out=joined[first : first + len(part)], dtype=np.float32)
        first += len(part)
    return joined
