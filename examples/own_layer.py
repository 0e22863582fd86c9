"""A layer of one's own: forward, backward, their test, training, and an ONNX file of it."""

import sys

import numpy as np

from fastbn import data, nn, train
from fastbn.export import to_onnx

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 10


class Softplus(nn.Module):
    """log(1 + exp(x)), a smooth ReLU."""

    def forward(self, x):
        return np.logaddexp(x, np.zeros((), x.dtype)), x

    def backward(self, dy, saved, need_dx=True):
        return dy / (1 + np.exp(-saved))  # the slope is a sigmoid

    def output_shape(self, input_shape):
        return input_shape

    def onnx(self, build, flow):
        return flow.to(build.node("Softplus", [flow.value]))


nn.check_gradients(Softplus(), (5,))  # against finite differences; raises if they differ

digits = data.load("digits")
first = [nn.Flatten(), nn.Linear(64, 64, rng=0), nn.BatchNorm(64), Softplus()]
net = nn.Sequential(*first, nn.Linear(64, 10, rng=1)).build(digits.input_shape)
trainer = train.Trainer(net)
trainer.fit(digits, EPOCHS, 32, validation=0.1, rng=0)
print(f"test accuracy {trainer.evaluate(digits).accuracy:.3f}")
report = to_onnx(net, "own_layer.onnx", classes=digits.classes)
print(f"own_layer.onnx differs from float64 by {report.max_abs_f64:.1e}")
