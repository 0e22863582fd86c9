"""Writing in one step, what killed runs leave, and paths that are no files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastbn import files

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, locks and signals are POSIX's")


@pytest.fixture(params=["pipe", "socket", "folder"])
def no_file(request, tmp_path):
    """Something with a name that is no file."""
    path = tmp_path / request.param
    if request.param == "folder":
        path.mkdir()
    elif os.name != "posix":
        pytest.skip("pipes and sockets have no names here")
    elif request.param == "pipe":
        os.mkfifo(path)
    else:
        short = os.path.relpath(path)  # addresses of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            if len(short) > 100:
                pytest.skip("the test's folder has too long a name for a socket")
            server.bind(short)
    return path


def test_what_is_no_file_is_neither_read_nor_replaced(no_file):
    before = no_file.lstat()
    with pytest.raises(OSError, match=r"is a (named pipe|socket|directory); name a file"):
        files.require_file(no_file)
    with pytest.raises(OSError, match="; name a file"), files.atomic(no_file) as temporary:
        temporary.write_text("new")
    assert (no_file.lstat().st_ino, no_file.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [entry.name for entry in no_file.parent.iterdir()] == [no_file.name]


@posix
def test_a_link_to_a_device_is_refused(tmp_path):
    link = tmp_path / "a"
    link.symlink_to(os.devnull)
    for check in (files.require_file, files.require_output):
        with pytest.raises(OSError, match="is a device; name a file"):
            check(link)
    loop = tmp_path / "loop"
    loop.symlink_to(loop.name)
    with pytest.raises(OSError, match="loop"):
        files.require_output(loop)


def test_missing_inputs_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.onnx: no such file"):
        files.require_file(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        files.require_output(tmp_path / "nowhere" / "a.onnx")
    with pytest.raises(OSError, match="no name of a file"):
        files.require_file("a\0b")


WRITER = """
import resource, sys
from fastbn.files import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic(sys.argv[1]) as temporary:
        temporary.write_bytes(bytes(2000))
except OSError as error:
    print(error)
"""


@posix
def test_a_file_size_limit_names_the_file(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(target)], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert str(target) in done.stdout
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@posix
def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*model\.onnx"), files.atomic(target) as path:
        path.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.atomic(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


SLEEPER = """
import sys, time
from pathlib import Path
from fastbn import files
folder = Path(sys.argv[1])
with files.atomic(folder / "a") as path, files.scratch_folder(folder) as scratch:
    path.write_text("half")
    (scratch / "b").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@posix
def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert sleeper.stdout.readline() == "ready\n"
        left = set(tmp_path.iterdir())
        assert len(left) == 2
        with files.atomic(tmp_path / "c") as path:
            path.write_text("new")
        assert set(tmp_path.iterdir()) == left | {tmp_path / "c"}
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.communicate()
    (tmp_path / ".own.tmp").write_text("somebody else's")
    with files.atomic(tmp_path / "c") as path:
        path.write_text("newer")
    assert {entry.name for entry in tmp_path.iterdir()} == {"c", ".own.tmp"}


def contents(folder: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


@pytest.mark.parametrize("swap", [True, False], ids=["in one step", "in two renames"])
def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    run = tmp_path / "deep" / "run"
    with files.new_folder(run) as folder:
        (folder / "weights").write_text("1")
        (folder / "report").write_text("1")
        assert not run.exists()
    assert contents(run) == {"weights": "1", "report": "1"}
    with files.new_folder(run, replace={"weights", "report", "picture"}) as folder:
        (folder / "weights").write_text("2")
        assert contents(run) == {"weights": "1", "report": "1"}
    assert contents(run) == {"weights": "2"}
    assert [entry.name for entry in run.parent.iterdir()] == ["run"]


def test_a_failing_block_leaves_the_old_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "weights").write_text("1")

    def write_half():
        with files.new_folder(run, replace={"weights"}) as folder:
            (folder / "weights").write_text("2")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_half()
    assert contents(run) == {"weights": "1"}
    assert list(tmp_path.iterdir()) == [run]


def test_files_of_others_are_never_replaced(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "weights").write_text("1")
    (run / "thesis.tex").write_text("years of work")
    replacing = files.new_folder(run, replace={"weights"})
    with pytest.raises(FileExistsError, match=r"holds thesis\.tex; name a new folder"), replacing:
        pytest.fail("the block is not entered")
    with pytest.raises(FileExistsError, match=r"holds thesis\.tex, weights"), files.new_folder(run):
        pytest.fail("the block is not entered")
    assert len(contents(run)) == 2
