"""Table regression: a number is predicted, brought to one scale and back."""

import sys

import numpy as np
from sklearn.datasets import load_diabetes

from fastbn import data, models, nn, train

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20

patients = load_diabetes(as_frame=True, scaled=False).frame  # in the place of your own file
patients["sex"] = patients["sex"].map({1.0: "one", 2.0: "two"})
patients["target"] = patients["target"].astype(float)  # 97.0, not 97: a number, not a class
patients.to_csv("diabetes.csv", index=False)

rows = data.load("diabetes.csv", target="target").normalized()
print(rows)

# Networks begin with outputs around 0 and 1, the target is around 150: it gets a scale, too.
scale = data.Normalization.fit(rows.y_train)
net = models.mlp(rows.input_shape, rows.outputs, hidden=(32, 16), rng=0)
trainer = train.Trainer(net, nn.MSELoss())
trainer.fit((rows.x_train, scale.apply(rows.y_train)), EPOCHS, 16, rng=0)

predicted = scale.undo(trainer.predict(rows.x_test))
error = predicted - rows.y_test
r2 = 1 - np.square(error).sum() / np.square(rows.y_test - rows.y_test.mean()).sum()
print(f"mean absolute error {abs(error).mean():.1f}, R² {r2:.2f}")
