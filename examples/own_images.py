"""Own images: from a folder with a subfolder for each class to a proven ONNX file."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from fastbn import data, models, train
from fastbn.data import augment
from fastbn.export import to_onnx

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 10

folder = Path("pictures")
if not folder.exists():  # in the place of your own: pictures/0/17.png, pictures/1/…
    for number, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        square = np.uint8(pixels.reshape(8, 8) * 15)
        Image.fromarray(square).resize((20, 20)).save(place / f"{number}.png")

# A fifth of every class is kept for the end, a tenth of the rest watches training.
images = data.load(folder, size=16).split(0.1, rng=0).normalized()
print(images)

net = models.convnet(images.input_shape, images.outputs, rng=0)
trainer = train.Trainer(net)
trainer.fit(images, EPOCHS, 32, validation=images, augment=augment.shift(1), rng=0)
print(f"test accuracy {trainer.evaluate(images).accuracy:.3f}")

inside = images.normalization.mean, images.normalization.std  # the file takes pixels in [0, 1]
report = to_onnx(net, "pictures.onnx", classes=images.classes, normalization=inside)
print(f"pictures.onnx: {report.bn_before} BatchNorms folded, off by {report.max_abs_f64:.1e}")
