"""Downloading data sets: verified against published hashes, put in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastbn.data.cifar import RECORD
from fastbn.data.sources import FOLDERS
from fastbn.files import cache_dir, scratch_folder


@dataclass(frozen=True)
class Source:
    """Where a data set is published.

    Parameters
    ----------
    base_url : str
        Address of the folder that holds the files.
    files : dict of str to str
        SHA-256 of each file, by name.
    members : dict of str to int
        Where the one file is a tar archive: the files to take out of it, by name, and their sizes.
        Empty: the files are used as they come.
    """

    base_url: str
    files: dict[str, str]
    members: dict[str, int] = field(default_factory=dict)


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            ),
        },
        {
            **{f"data_batch_{number}.bin": 10_000 * RECORD for number in range(1, 6)},
            "test_batch.bin": 10_000 * RECORD,
        },
    ),
}


def fetch(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    progress: Any = False,
) -> Path:
    """Download a data set to where `fastbn.data.load` finds it.

    Everything is downloaded and verified beside its place and moved there only then; a failure
    leaves things as they were. Files that are there already and have the published hash are not
    downloaded again; of an archive's content the sizes are looked at.

    Parameters
    ----------
    name : {"mnist", "cifar10"}
        Which one.
    root : str or path, optional
        Folder that will hold ``mnist/`` or ``cifar10/cifar-10-batches-bin/``; the default is
        ``$FASTBN_CACHE`` or ``~/.cache/fastbn``.
    base_url : str, optional
        Address of a mirror: the folder that holds the files under their published names.
    progress : bool or progress bar, default False
        As ``progressbar`` of pooch's downloaders.

    Returns
    -------
    pathlib.Path
        The folder with the files.

    Raises
    ------
    ValueError
        If the name is unknown, or a downloaded file has not the published hash.
    OSError
        If the download fails.
    ImportError
        If pooch is not installed.

    Examples
    --------
    >>> fetch("cifar100")
    Traceback (most recent call last):
        ...
    ValueError: Nothing to download for 'cifar100': expected one of mnist, cifar10
    """
    if name not in SOURCES:
        raise ValueError(
            f"Nothing to download for {name!r}: expected one of {', '.join(SOURCES)}"
            + (" (digits come with scikit-learn)" if name == "digits" else "")
        )
    source = SOURCES[name]
    folder = (Path(root).expanduser() if root else cache_dir()) / FOLDERS[name]
    missing = _missing(source, folder)
    if not missing:
        return folder
    existing = next(parent for parent in folder.parents if parent.exists())
    # On the file system of the target, so that the last step is a rename.
    with scratch_folder(existing) as scratch:
        arrived = [
            _download(base_url or source.base_url, file, digest, scratch, progress)
            for file, digest in missing.items()
        ]
        if source.members:
            arrived = _unpack(arrived[0], source.members, scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for path in arrived:
            path.replace(folder / path.name)
    return folder


def _missing(source: Source, folder: Path) -> dict[str, str]:
    """Files that must be downloaded: an archive unless all its members are there, whole."""
    if source.members:
        paths = {folder / member: size for member, size in source.members.items()}
        complete = all(
            path.is_file() and path.stat().st_size == size for path, size in paths.items()
        )
        return {} if complete else source.files
    return {
        file: digest
        for file, digest in source.files.items()
        if not (folder / file).is_file() or _sha256(folder / file) != digest
    }


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _download(base_url: str, file: str, digest: str, folder: Path, progress: Any) -> Path:
    """Download one file and verify it."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError('Downloading needs pooch: pip install "fastbn[data]"') from error
    pooch.get_logger().setLevel("WARNING")
    url = f"{base_url.rstrip('/')}/{file}"
    downloader = pooch.HTTPDownloader(chunk_size=1 << 16, progressbar=progress)
    try:
        return Path(pooch.retrieve(url, f"sha256:{digest}", file, folder, downloader=downloader))
    except OSError as error:
        raise OSError(
            f"{url}: the download failed ({error}); check the network, or name a mirror (base_url)"
        ) from error


def _unpack(archive: Path, members: Iterable[str], folder: Path) -> list[Path]:
    """Take the named files out of a tar archive, whatever folder they lie in there."""
    paths = []
    with tarfile.open(archive) as tar:
        by_name = {Path(item.name).name: item for item in tar if item.isfile()}
        for member in members:
            if member not in by_name:
                raise ValueError(f"{archive.name}: expected a file {member} in the archive")
            stream = tar.extractfile(by_name[member])
            assert stream is not None  # isfile() above
            paths.append(folder / member)
            with stream, paths[-1].open("wb") as target:
                shutil.copyfileobj(stream, target)
    return paths
