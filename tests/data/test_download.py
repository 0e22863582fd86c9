from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastbn.data import download, fetch, load
from fastbn.data.download import Source

pytest.importorskip("pooch")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and keeps a list of what was asked for."""

    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def url(served: Path, asked: list[str]) -> Iterator[str]:
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def two_files(served: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A set of two small files in the place of MNIST."""
    files = {"a.gz": b"first" * 1000, "b.gz": b"second"}
    for name, raw in files.items():
        (served / name).write_bytes(raw)
    hashes = {name: sha256(raw).hexdigest() for name, raw in files.items()}
    monkeypatch.setitem(download.SOURCES, "mnist", Source("http://nowhere.invalid/", hashes))
    return files


@pytest.fixture
def archive(served: Path, cifar_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive like CIFAR-10's, with a folder, in its place."""
    path = served / "cifar-10-binary.tar.gz"
    sizes = {file.name: file.stat().st_size for file in cifar_folder.glob("*.bin")}
    with tarfile.open(path, "w:gz") as tar:
        for name in sizes:
            tar.add(cifar_folder / name, f"cifar-10-batches-bin/{name}")
        readme = tarfile.TarInfo("cifar-10-batches-bin/readme.html")
        readme.size = 5
        tar.addfile(readme, io.BytesIO(b"hello"))
    source = Source(
        "http://nowhere.invalid/", {path.name: sha256(path.read_bytes()).hexdigest()}, sizes
    )
    monkeypatch.setitem(download.SOURCES, "cifar10", source)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_arrive_whole_and_only_once(
    tmp_path: Path, url: str, two_files: dict[str, bytes], asked: list[str]
) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    folder = fetch("mnist", root, base_url=url)
    assert folder == root / "mnist"
    assert contents(root) == {f"mnist/{name}": raw for name, raw in two_files.items()}
    assert asked == ["/a.gz", "/b.gz"]
    fetch("mnist", root, base_url=url)
    assert len(asked) == 2
    (folder / "b.gz").write_bytes(b"damaged")
    fetch("mnist", root, base_url=url.rstrip("/"))
    assert asked[2:] == ["/b.gz"]
    assert contents(folder) == two_files


def test_default_place(
    tmp_path: Path, url: str, two_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    assert fetch("mnist", base_url=url) == home / ".cache/fastbn/mnist"
    assert contents(home) == {f".cache/fastbn/mnist/{name}": two_files[name] for name in two_files}


@pytest.mark.parametrize("wrong", ["a.gz", "b.gz"])
def test_hash_mismatch_leaves_nothing_behind(
    tmp_path: Path, url: str, served: Path, two_files: dict[str, bytes], wrong: str
) -> None:
    (served / wrong).write_bytes(b"something else")
    root = tmp_path / "cache"
    root.mkdir()
    with pytest.raises(ValueError, match=rf"hash .*{wrong}"):
        fetch("mnist", root, base_url=url)
    assert list(root.rglob("*")) == []


def test_hash_mismatch_leaves_older_files_alone(
    tmp_path: Path, url: str, served: Path, two_files: dict[str, bytes]
) -> None:
    folder = fetch("mnist", tmp_path, base_url=url)
    (folder / "a.gz").write_bytes(b"old")
    (served / "a.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="hash"):
        fetch("mnist", tmp_path, base_url=url)
    assert contents(folder) == {**two_files, "a.gz": b"old"}


def test_missing_on_the_server(
    tmp_path: Path, url: str, served: Path, two_files: dict[str, bytes]
) -> None:
    (served / "b.gz").unlink()
    root = tmp_path / "cache"
    root.mkdir()
    with pytest.raises(OSError, match="404"):
        fetch("mnist", root, base_url=url)
    assert list(root.rglob("*")) == []


@pytest.mark.usefixtures("archive")
def test_archive_is_unpacked_and_loads(
    tmp_path: Path, url: str, cifar_folder: Path, asked: list[str]
) -> None:
    root = tmp_path / "cache"
    folder = fetch("cifar10", root, base_url=url)
    assert folder == root / "cifar10/cifar-10-batches-bin"
    assert contents(folder) == {path.name: path.read_bytes() for path in cifar_folder.glob("*.bin")}
    assert load("cifar10", root).y_train.tolist() == [2, 2, 2, 9, 9, 9]
    fetch("cifar10", root, base_url=url)
    assert len(asked) == 1
    (folder / "test_batch.bin").write_bytes(b"cut")
    fetch("cifar10", root, base_url=url)
    assert len(asked) == 2
    assert load("cifar10", root).y_test.tolist() == [9, 9]


def test_archive_of_another_hash(tmp_path: Path, url: str, archive: Path) -> None:
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    root = tmp_path / "cache"
    root.mkdir()
    with pytest.raises(ValueError, match="hash"):
        fetch("cifar10", root, base_url=url)
    assert list(root.rglob("*")) == []


@pytest.mark.parametrize(("name", "remedy"), [("digits", "scikit-learn"), ("minst", "mnist")])
def test_nothing_to_download(name: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{remedy}"):
        fetch(name)


def test_published_hashes_of_mnist(data_dir: Path, tmp_path: Path, url: str, served: Path) -> None:
    for path in (data_dir / "mnist").glob("*.gz"):
        (served / path.name).symlink_to(path)
    folder = fetch("mnist", tmp_path / "cache", base_url=url)
    assert contents(folder) == contents(data_dir / "mnist")
