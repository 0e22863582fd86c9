"""Training on MNIST: the loss curve is PyTorch's, and the accuracy that of the tutorials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import data, models, nn, optim
from fastbn.train import Trainer

STEPS, BATCH = 200, 32


@pytest.fixture(scope="module")
def mnist(data_dir: Path) -> data.Dataset:
    return data.load("mnist", data_dir)


def pytorch_mlp(torch: Any) -> Any:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(784, 128),
        torch.nn.BatchNorm1d(128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
        torch.nn.BatchNorm1d(64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )


def test_loss_curve_equals_pytorchs(mnist: data.Dataset, torch: Any) -> None:
    ours, theirs = models.mlp(rng=0), pytorch_mlp(torch)
    theirs.load_state_dict(
        {name: torch.from_numpy(value) for name, value in ours.state_dict("NCHW").items()}
    )
    loss, torch_loss = nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    optimizer = optim.Adam(ours.parameters(), lr=1e-3)
    torch_optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    curve, torch_curve = [], []
    batches = iter(mnist.batches(BATCH, rng=0))
    for _ in range(STEPS):
        images, labels = next(batches)
        value, dlogits = loss(ours(images), labels)
        ours.backward(dlogits)
        optimizer.step()
        curve.append(value)

        torch_optimizer.zero_grad()
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        torch_value = torch_loss(theirs(pixels), torch.from_numpy(labels))
        torch_value.backward()
        torch_optimizer.step()
        torch_curve.append(float(torch_value.detach()))
    assert curve[-1] < 0.5 * curve[0]
    np.testing.assert_allclose(curve, torch_curve, rtol=1e-4)

    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    for name, value in ours.state_dict("NCHW").items():
        # not running_mean: there PyTorch's bias, moved by Adam on rounding noise, is contained
        if name.endswith(("running_var", "num_batches_tracked")):
            np.testing.assert_allclose(value, state[name], rtol=1e-3, err_msg=name)


def test_one_epoch_of_the_mlp(mnist: data.Dataset) -> None:
    net = models.mlp(mnist.input_shape, rng=0)
    trainer = Trainer(net, optimizer=optim.Adam(net.parameters(), lr=1e-3))
    history = trainer.fit(mnist, epochs=1, batch_size=32, validation=mnist, rng=0)
    assert history.steps == 1875
    assert history.last.val_accuracy is not None
    assert history.last.val_accuracy >= 0.95
