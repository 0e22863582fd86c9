"""Write the page images.md: training on image files, killed twice, resumed, as it happens.

    FASTBN_DATA=... python docs/tutorials/images.py --images 4000 --epochs 12

Every command of the page is run, in a new folder; what it prints is what the page shows. The images
are CIFAR-10's where ``FASTBN_DATA`` has them, else scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from fastbn import data
from fastbn.bench.load import busy_cores

PROGRAM = "from fastbn.cli import main; main()"
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONSAFEPATH": "1"}
NEW = 3  # images to predict
LINES = 2  # of epochs, after which a run is killed: then there is a checkpoint

PAGE = """\
# Train on your images

Train on a folder of images, interrupt the run, resume it, predict. This page is a transcript:
`python docs/tutorials/images.py` ran every command and wrote down what it printed.{busy}

## The images

{images:,} images of {name} as PNG files, in one folder for each class; the folder's name is that
of the class. {new} test images are kept aside for the end.

{folders}

## Train, and be killed

A fifth of the files becomes the test set, a tenth of the rest the validation set; the seed chooses
both, with the same share of every class. Training stops after three epochs without a better
validation loss, but here `kill -9` ends it sooner.

{train}

## Resume, be killed again, resume

`--resume` needs only the folder. A run continues from its last checkpoint, which is written after
every epoch and, here, after every 20 steps (`--save-every 20`). The second kill is a SIGTERM, as
a batch system or a container sends it: a checkpoint is written first.

{resume}

The same run without interruptions ends with the same file, byte for byte:

{same}

## Predict and report

{predict}

`report.html` in the folder of the run has the curves, the confusion matrix and the worst mistakes
among the images. It opens without a network connection, and can be made again:

{report}

## Export

`fastbn export run/model.safetensors -o model.onnx` writes an ONNX file with the BatchNorms folded
away; `--web page` writes [a web page](../web.md) that runs it.

All options: [Command line](../command-line.md). How folders of images are read: [Data](../data.md).
"""


class Shell:
    """Runs commands in a folder, and writes down what they are and what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, **ENVIRONMENT, "FASTBN_CACHE": str(folder / ".cache")}

    def fastbn(self, line: str, *, kill: signal.Signals | None = None, code: int = 0) -> str:
        """Run ``fastbn`` with these arguments; kill it after some lines of epochs, if asked."""
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *shlex.split(line)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )
        assert process.stdout is not None
        printed: list[str] = []
        with process:
            for text in process.stdout:
                printed.append(text.rstrip())
                if kill and sum(part.startswith("epoch ") for part in printed) == LINES:
                    process.send_signal(kill)
                    kill = None
        if process.returncode != code:
            raise SystemExit(
                f"fastbn {line}: exit code {process.returncode}\n" + "\n".join(printed)
            )
        if code:
            printed.append(f"[exit code {code if code > 0 else 128 - code}]")
        return "\n".join([f"$ fastbn {line}", *printed])

    def run(self, line: str) -> str:
        """Run a line of a shell."""
        done = subprocess.run(
            line, shell=True, cwd=self.folder, check=True, capture_output=True, text=True
        )
        return f"$ {line}\n{done.stdout.rstrip()}"


def write_images(folder: Path, images: data.Dataset, count: int) -> list[str]:
    """Write training images to ``pictures/CLASS/NUMBER.png``, a few of the test to ``new/``."""
    for name in images.classes:
        (folder / "pictures" / name).mkdir(parents=True)
    (folder / "new").mkdir()
    for row in range(count):
        name = images.classes[images.y_train[row]]
        save(np.asarray(images.x_train[row]), folder / "pictures" / name / f"{row:05}.png")
    new = [f"new/{images.classes[images.y_test[row]]}-{row}.png" for row in range(NEW)]
    for row, name in enumerate(new):
        save(np.asarray(images.x_test[row]), folder / name)
    return new


def save(pixels: np.ndarray, path: Path) -> None:
    """Write one image, channels last, values in [0, 1]."""
    values = np.round(pixels * 255.0).astype(np.uint8)
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(path)


def transcript(folder: Path, count: int, epochs: int) -> str:
    """Run everything; return the page."""
    images = data.load("cifar10" if os.environ.get("FASTBN_DATA") else "digits")
    count = min(count, len(images.x_train))
    new = write_images(folder, images, count)
    shell = Shell(folder)
    train = (
        "train convnet --data pictures --augment flip,crop --early-stopping 3 "
        f"--epochs {epochs} --save-every 20"
    )
    killed, stopped = signal.SIGKILL, signal.SIGTERM
    parts = {
        "folders": shell.run("ls pictures | head -3; ls pictures/* | wc -l; ls new"),
        "train": shell.fastbn(f"{train} -o run", kill=killed, code=-killed),
        "resume": "\n".join(
            [
                shell.fastbn("train --resume run", kill=stopped, code=128 + stopped),
                shell.fastbn("train --resume run"),
            ]
        ),
        "same": shell.fastbn(f"{train} -o whole --quiet")
        + "\n"
        + shell.run("cmp run/model.safetensors whole/model.safetensors && echo the same"),
        "predict": shell.fastbn(f"predict run/model.safetensors {' '.join(new)} --top 3"),
        "report": shell.fastbn("report run --quiet") + "\n" + shell.run("ls run"),
    }
    blocks = {name: f"```console\n{text}\n```" for name, text in parts.items()}
    busy = busy_cores() or 0.0
    note = f" Other\nprograms kept {busy:.1f} cores busy, so the times mean little."
    label = {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits"}[images.name]
    return PAGE.format(
        images=count, name=label, new=len(new), busy=note if busy > 0.1 else "", **blocks
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = transcript(Path(folder), options.images, options.epochs)
    options.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
