"""Files that are there whole, the old one or the new one, and inputs that are files at all.

What is being written has a hidden name that ends in ``.fastbn.tmp``, and holds a lock that the
system takes away with the process. So a name that can be locked is litter of a run that was
killed, whatever its number was, and the next one that writes into the folder removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from fastbn import budgets

if sys.platform != "win32":  # there nothing is locked, so nothing is known to be litter
    import fcntl

TEMPORARY = ".fastbn.tmp"

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}
# Errors of a write that do not name the file: no space, file size limit, quota, disk broken.
_NAMELESS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


def cache_dir() -> Path:
    """Return where what can be gotten again is kept: ``$FASTBN_CACHE``, or ``~/.cache/fastbn``."""
    given = os.environ.get("FASTBN_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "fastbn"


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return an input's path, if reading it cannot wait, act or never end.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    OSError
        If it is a directory, a named pipe, a socket or a device; it is not opened to find out.
    """
    given = Path(path)
    try:
        status = given.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{given}: no such file") from None
    except ValueError as error:  # a null byte
        raise OSError(f"{str(given)!r} is no name of a file: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file(given, status.st_mode)
    budgets.found(str(given), status.st_size)
    return given


def require_output(path: str | os.PathLike[str]) -> Path:
    """Return the file that writing to `path` replaces: a link's target, or the path itself.

    Ask before the work whose result shall go there.

    Raises
    ------
    OSError
        If there is something that is no file, or no folder to write into.
    """
    target = Path(path)
    if target.is_symlink():
        try:
            target = target.resolve()
        except RuntimeError as error:  # a loop of links
            raise OSError(f"{target} cannot be followed: {error}") from None
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise FileNotFoundError(f"{target.parent} is no folder; make it first") from None
        return target
    if not stat.S_ISREG(mode):
        raise _not_a_file(target, mode)
    return target


def _not_a_file(path: Path, mode: int) -> OSError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    error = IsADirectoryError if stat.S_ISDIR(mode) else OSError
    return error(f"{path} is {kind}; name a file")


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file in the target's folder, and put it in place if the block succeeds.

    A link stays one: the file behind it is replaced. The new file has the old one's mode.

    Raises
    ------
    OSError
        If it cannot be written, or the target is no file; what was there is untouched.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("new")
    ...     (Path(folder) / "a.txt").read_text()
    'new'
    """
    target = require_output(path)
    remove_litter(target.parent)
    with _naming(target), _locked_file(target) as temporary:
        try:
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(_mode(target))
            require_output(target)  # which may have become a device meanwhile
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)


@contextlib.contextmanager
def scratch_folder(parent: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden folder in `parent` that is gone after the block, or after the next run.

    Raises
    ------
    OSError
        If `parent` cannot be written.
    """
    remove_litter(Path(parent))
    with _locked_folder(Path(parent)) as folder:
        yield folder


@contextlib.contextmanager
def new_folder(
    path: str | os.PathLike[str], *, replace: Collection[str] | None = None
) -> Iterator[Path]:
    """Give a hidden folder beside `path`, and let it take the place of `path` in one step.

    So the first files of a run appear together, and no folder ever holds files of two runs: put
    what makes the run complete (or able to be resumed) into the block, and replace single files
    with `atomic` afterwards.

    Parameters
    ----------
    path : path
        The folder; its parents are made.
    replace : collection of str, optional
        Names of files that may be there already and go. By default an existing folder must be
        empty.

    Raises
    ------
    FileExistsError
        If the folder holds other files, which are never deleted; before the block is entered.
    OSError
        If it cannot be written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_folder(Path(parent) / "run") as folder:
    ...         _ = (folder / "config.toml").write_text("epochs = 3")
    ...     [entry.name for entry in (Path(parent) / "run").iterdir()]
    ['config.toml']
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; name a folder")
    _require_only(target, replace or ())
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_litter(target.parent)
    with _naming(target), _locked_folder(target.parent) as folder:
        yield folder
        for entry in folder.rglob("*"):
            if entry.is_file():
                with entry.open("rb+") as stream:
                    os.fsync(stream.fileno())
        folder.chmod(_mode(target, folder=True))
        _require_only(target, replace or ())
        if target.exists():
            _exchange(folder, target)  # the old one goes with the hidden name
        else:
            folder.replace(target)
        _sync_folder(target.parent)


def _require_only(folder: Path, names: Collection[str]) -> None:
    """Raise FileExistsError if a folder has entries of other names; litter does not count."""
    if not folder.is_dir():
        return
    remove_litter(folder)
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in names)
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise FileExistsError(f"{folder} holds {shown}; name a new folder")


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders: in one step where the system has one, else in two renames."""
    import ctypes

    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    if call is not None and call(at_cwd, names[0], at_cwd, names[1], exchange) == 0:
        return
    aside = first.with_name(f".{second.name}.old{TEMPORARY}")
    second.replace(aside)
    first.replace(second)
    aside.replace(first)


def remove_litter(folder: Path) -> None:
    """Remove what killed runs left in a folder: temporaries that no living process holds."""
    if sys.platform == "win32":
        return
    try:
        names = [entry for entry in os.scandir(folder) if _is_temporary(entry.name)]
    except OSError:
        return  # whoever wants to write there says what is wrong
    for entry in names:
        with contextlib.suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif stat.S_ISREG(os.fstat(handle).st_mode):
                    Path(entry.path).unlink()
            finally:
                os.close(handle)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


@contextlib.contextmanager
def _locked_file(target: Path) -> Iterator[Path]:
    """Make an empty temporary beside the target, and hold its lock."""
    while True:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:100]}.", suffix=TEMPORARY
        )
        temporary = Path(name)
        if _lock(handle, temporary):
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """Make an empty folder, hold its lock, and remove what has its name in the end."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=".", suffix=TEMPORARY))
        if os.name != "posix":
            handle = None
            break
        handle = os.open(folder, os.O_RDONLY)
        if _lock(handle, folder):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Lock a new temporary; False if another process took it for litter in between."""
    if sys.platform == "win32":
        return True
    with contextlib.suppress(OSError):  # no locks here: then nobody can remove it either
        fcntl.flock(handle, fcntl.LOCK_EX)
    return path.exists()


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Let errors of writing name the file that was asked for, not a temporary or none."""
    try:
        yield
    except OSError as error:
        nameless = error.filename is None and error.errno in _NAMELESS
        if nameless or _is_temporary(Path(os.fsdecode(error.filename or "")).name):
            raise OSError(error.errno, os.strerror(error.errno or 0), str(target)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Let the names of a folder reach the disk, too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _mode(target: Path, *, folder: bool = False) -> int:
    """Return the mode of what is replaced, or that of something new under the umask."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return (0o777 if folder else 0o666) & ~mask
