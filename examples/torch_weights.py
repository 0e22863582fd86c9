"""PyTorch: take weights from there, train on, and give them back."""

import sys

import numpy as np
import torch
from safetensors.torch import save_file

from fastbn import data, models, nn, train

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
digits = data.load("digits")

theirs = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, padding=1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(16 * 8 * 8, 10),
)  # fmt: skip
ours = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm(16), nn.ReLU(),
    nn.Flatten(), nn.Linear(16 * 8 * 8, 10),
).build(digits.input_shape)  # fmt: skip

save_file(theirs.state_dict(), "theirs.safetensors")  # or torch.save(..., "theirs.pt")
models.load_torch(ours, "theirs.safetensors", layout="NCHW")  # images were channels-first there

images = torch.from_numpy(digits.x_test.transpose(0, 3, 1, 2).copy())


def difference() -> float:
    with torch.no_grad():
        return float(np.abs(theirs.eval()(images).numpy() - ours.predict(digits.x_test)).max())


print(f"before training the outputs differ by {difference():.1e}")
train.Trainer(ours).fit(digits, EPOCHS, 32, validation=0.1, rng=0)
values = {name: torch.from_numpy(a) for name, a in ours.state_dict("NCHW").items()}
theirs.load_state_dict(values)
print(f"trained here, PyTorch's outputs differ by {difference():.1e}")
