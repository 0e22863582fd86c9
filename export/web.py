"""A page for the browser: the exported network, tried by dropping an image or drawing one.

The page is static: HTML, CSS and JavaScript of this package's own, the ONNX file, and
onnxruntime-web, which runs it in WebAssembly. Browsers load neither of the last two from a page
that is opened as a file, so it wants a server, ``python -m http.server`` for one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from fastbn.files import atomic, cache_dir, scratch_folder

VERSION = "1.30.0"
PACKAGE = "onnxruntime-web"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LARGEST_DRAWN = 64  # pixels of a grey image that people may draw, not only load


def write_page(
    folder: str | os.PathLike[str],
    *,
    title: str,
    input_shape: Sequence[int],
    classes: Sequence[str],
    offline: bool = False,
) -> None:
    """Write the page around a file ``model.onnx`` that lies in the folder, or is to be put there.

    Parameters
    ----------
    folder : path
        It is made if it is not there; other files in it stay.
    title : str
        Heading of the page.
    input_shape : sequence of int
        (H, W, C) with one channel, grey, or three, RGB. The file takes pixels in [0, 1], channels
        first, and returns probabilities.
    classes : sequence of str
        Names of the outputs.
    offline : bool
        Put onnxruntime-web beside the page, so that it needs no network; see `runtime`. Otherwise
        browsers get it from a CDN.

    Raises
    ------
    ValueError
        If the network does not take images or has no classes.
    OSError
        If something cannot be written, or `offline` found no runtime.
    """
    require_images(input_shape, classes)
    shape = [int(size) for size in input_shape]
    target = Path(folder)
    kept = runtime() if offline else None
    target.mkdir(parents=True, exist_ok=True)
    told = {
        "shape": shape,
        "classes": [str(name) for name in classes],
        "draw": shape[2] == 1 and max(shape[:2]) <= LARGEST_DRAWN,
        "runtime": "" if offline else CDN,
    }
    assets = files("fastbn.export") / "assets"
    page = (assets / "web.html").read_text(encoding="utf-8")
    for mark, text in (
        ("{{title}}", escape(title)),
        ("{{runtime}}", f"{told['runtime']}{RUNTIME[0]}"),
        ("{{model}}", json.dumps(told).replace("</", "<\\/")),
    ):
        page = page.replace(mark, text)
    _write(target / "index.html", page.encode())
    for name in ("web.css", "web.js"):
        _write(target / name, (assets / name).read_bytes())
    for name in RUNTIME if kept else ():
        assert kept is not None
        _write(target / name, (kept / name).read_bytes())


def require_images(input_shape: Sequence[int], classes: Sequence[str]) -> None:
    """Raise ValueError unless a page can be made of such a network."""
    if len(input_shape) != 3 or input_shape[2] not in {1, 3}:
        raise ValueError(
            f"a page needs a network of images (H, W, 1 or 3), got {tuple(input_shape)}"
        )
    if not classes:
        raise ValueError("a page needs names of the classes: train.save(..., classes=...)")


def runtime() -> Path:
    """Return a folder that holds onnxruntime-web, gotten from npm once and then kept.

    Raises
    ------
    FileNotFoundError
        If it is not kept, and npm is not installed or has not got it.
    """
    folder = cache_dir() / f"{PACKAGE}-{VERSION}"
    if all((folder / name).is_file() for name in RUNTIME):
        return folder
    npm = shutil.which("npm")
    remedy = f"put {', '.join(RUNTIME)} of {PACKAGE} {VERSION} into {folder}"
    if npm is None:
        raise FileNotFoundError(f"{PACKAGE} comes from npm, which is not installed: {remedy}")
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        done = subprocess.run(
            [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        packed = next(scratch.glob("*.tgz"), None)
        if done.returncode or packed is None:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise FileNotFoundError(f"npm did not get {PACKAGE} {VERSION} ({last[0]}): {remedy}")
        with tarfile.open(packed) as archive:
            for name in RUNTIME:
                held = archive.extractfile(f"package/dist/{name}")
                assert held is not None
                _write(folder / name, held.read())
    return folder


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    print(runtime())
