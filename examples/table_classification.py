"""Table classification: a CSV file, words and gaps included; then new rows."""

import sys

import numpy as np
from sklearn.datasets import load_wine

from fastbn import data, models, train

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 40

wine = load_wine(as_frame=True).frame  # in the place of your own file
wine["strength"] = np.where(wine["alcohol"] > 13, "strong", "light")
wine.loc[::10, "magnesium"] = None
wine["target"] = wine["target"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
wine.to_csv("wine.csv", index=False)

rows = data.load("wine.csv", target="target").normalized()
print(rows)

net = models.mlp(rows.input_shape, rows.outputs, hidden=(32, 16), rng=0)
trainer = train.Trainer(net)
trainer.fit(rows, EPOCHS, 16, rng=0)
print(f"test accuracy {trainer.evaluate(rows).accuracy:.3f}")

train.save(
    net,
    "wine.safetensors",
    classes=rows.classes,
    input_normalization=rows.normalization.as_dict(),
    columns=rows.columns.as_dict(),
)

_, metadata = train.read("wine.safetensors")  # elsewhere, with nothing but this file
net = train.load("wine.safetensors", inference=True)
x = data.Columns.from_dict(metadata.columns).apply("wine.csv")
logits = net.predict(data.Normalization.from_dict(metadata.input_normalization).apply(x))
print([metadata.classes[label] for label in logits.argmax(axis=1)[:5]])
