"""Loss objects: PyTorch's where it has the same, weights of rows, copies, and a network's step."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim

LOSSES: list[nn.loss.Loss] = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss([0.5, 1.0, 2.0], 0.1, 2, reduction="sum"),
    nn.BCEWithLogitsLoss(),
    nn.MSELoss(reduction="sum"),
    nn.L1Loss(),
    nn.HuberLoss(0.5),
]


def options(loss: nn.loss.Loss, torch: Any) -> dict[str, Any]:
    kept = {name: value for name, value in vars(loss).items() if not name.startswith("_")}
    if isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None:
        kept["weight"] = torch.tensor(loss.weight, dtype=torch.float32)
    return kept


def pair(loss: nn.loss.Loss) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    pred = rng.standard_normal((7, 3)).astype(np.float32)
    if isinstance(loss, nn.CrossEntropyLoss):
        return pred, rng.integers(0, 3, 7)
    return pred, rng.uniform(size=(7, 3)).astype(np.float32)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_equals_torch(loss: nn.loss.Loss, torch: Any) -> None:
    pred, target = pair(loss)
    value, dpred = loss(pred, target)
    leaf = torch.tensor(pred, requires_grad=True)
    theirs = getattr(torch.nn, type(loss).__name__)(**options(loss, torch))
    expected = theirs(leaf, torch.tensor(target))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(dpred, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert loss.value(pred, target) == value


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_weights_of_rows_and_copies(loss: nn.loss.Loss) -> None:
    pred, target = pair(loss)
    each = [1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 3.0]
    value, dpred = loss(pred, target, sample_weight=each)
    assert not dpred[1].any()
    assert value != loss(pred, target)[0]
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        again, gradient = other(pred, target, each)
        assert again == value
        np.testing.assert_array_equal(gradient, dpred)


def test_correct_answers() -> None:
    pred = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]])
    loss = nn.CrossEntropyLoss()
    assert loss.correct(pred, np.array([1, 1, 1])) == 2
    assert loss.correct(pred, np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])) == 2


def test_a_loss_of_mixed_examples_trains() -> None:
    """Probabilities, class weights and smoothing reach the weights of a network."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 5)).astype(np.float32)
    target = np.eye(3, dtype=np.float32)[x[:, :3].argmax(axis=1)] * 0.8 + np.float32(0.2 / 3)
    net = nn.Linear(5, 3, rng=0)
    loss, adam = nn.CrossEntropyLoss([1.0, 2.0, 1.0], 0.05), optim.Adam(net.parameters(), lr=0.05)
    values = []
    for _ in range(60):
        value, dpred = loss(net(x), target)
        net.backward(dpred)
        adam.step()
        values.append(value)
    assert values[-1] < 0.75 * values[0]
    assert loss.correct(net.eval()(x), target) > 55


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.CrossEntropyLoss(label_smoothing=-0.1), "label_smoothing must be between"),
        (lambda: nn.CrossEntropyLoss(np.ones((2, 2))), r"weight: expected shape \(classes,\)"),
        (lambda: nn.MSELoss("none"), "reduction should be 'mean' or 'sum', but got 'none'"),
        (lambda: nn.HuberLoss(0.0), "delta should be finite and > 0, but got 0"),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
