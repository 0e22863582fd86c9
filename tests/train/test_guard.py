"""NaNGuard: what is not finite stops training, is named, and leaves the weights of before."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim, train
from fastbn.train import NaNGuard, NotFiniteError, Trainer


def data(rows: int = 320) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 4, rows)


def net() -> nn.Sequential:
    rng = np.random.default_rng(1)
    layers = [nn.Linear(6, 16, rng=rng), nn.BatchNorm(16), nn.ReLU(), nn.Dropout(0.3, rng=rng)]
    return nn.Sequential(*layers, nn.Linear(16, 4, rng=rng))


def trainer(loss: Any = None, lr: float = 1e-2) -> Trainer:
    mlp = net()
    return Trainer(mlp, loss, optim.Adam(mlp.parameters(), lr=lr))


class Spoils(nn.CrossEntropyLoss):
    """A loss or a gradient that is not finite at the steps from this one on."""

    def __init__(
        self, step: int, value: float | None = None, gradient: float | None = None
    ) -> None:
        super().__init__()
        self.step, self.bad_value, self.bad_gradient = step, value, gradient
        self.labels: list[Any] = []

    def __call__(self, pred: Any, target: Any, **weights: Any) -> tuple[float, Any]:
        value, dpred = super().__call__(pred, target, **weights)
        known = [np.array_equal(target, labels) for labels in self.labels]
        if not any(known):
            self.labels.append(target.copy())
        if (known.index(True) if any(known) else len(known)) + 1 < self.step:
            return value, dpred
        if self.bad_gradient is not None:
            dpred = dpred.copy()
            dpred[0, 1] = self.bad_gradient
        return value if self.bad_value is None else self.bad_value, dpred


class StopsAt(train.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.steps == self.step


def assert_stands_behind(spoiled: Trainer, steps: int, **fit: Any) -> None:
    """The network is bit for bit that of a run which was stopped there."""
    assert spoiled.steps == steps
    stopped = trainer()
    stopped.fit(data(), 3, 32, callbacks=[StopsAt(steps)], rng=0, **fit)
    assert stopped.steps == steps
    for name, value in stopped.net.state_dict().items():
        np.testing.assert_array_equal(value, spoiled.net.state_dict()[name], err_msg=name)
    states = (each.optimizer.state_dict() for each in (spoiled, stopped))
    np.testing.assert_equal(*states)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [2, 7, 14])
def test_a_loss(step: int, value: float) -> None:
    spoiled = trainer(Spoils(step, value=value))
    with pytest.raises(NotFiniteError, match=f"at step {step}: the loss is {value}") as caught:
        spoiled.fit(data(), 3, 32, rng=0)
    assert (caught.value.step, caught.value.place) == (step, "loss")
    assert_stands_behind(spoiled, step - 1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.step) == (str(caught.value), step)


@pytest.mark.parametrize("step", [2, 10, 30])  # an epoch has ten
def test_a_gradient(step: int) -> None:
    spoiled = trainer(Spoils(step, gradient=np.nan))
    with pytest.raises(NotFiniteError, match=rf"step {step}: the gradient of 4\.bias is not"):
        spoiled.fit(data(), 3, 32, rng=0)
    assert_stands_behind(spoiled, step - 1)


def test_a_gradient_that_is_clipped() -> None:
    spoiled = trainer(Spoils(5, gradient=np.inf))
    with pytest.raises(NotFiniteError, match=r"step 5: the gradient of 4\.bias"):
        spoiled.fit(data(), 3, 32, rng=0, clip_norm=1.0)
    assert_stands_behind(spoiled, 4, clip_norm=1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_of_the_data(value: float) -> None:
    x, y = data()
    x[123, 4] = value
    spoiled = trainer()
    with pytest.raises(NotFiniteError, match="row 123 of the data has values") as caught:
        spoiled.fit((x, y), 3, 32, rng=0)
    assert "learning rate" not in str(caught.value)
    assert caught.value.place == "row 123"
    steps = spoiled.steps
    assert steps < 10
    for name, array in spoiled.net.state_dict().items():
        assert np.isfinite(array).all(), name


def test_a_layer() -> None:
    spoiled = trainer()

    class Overflows(train.Callback):
        def on_step(self, trainer: Trainer) -> None:
            if trainer.steps == 6:
                trainer.net[0].weight.data[:] = 1e38  # type: ignore[index]

    with pytest.raises(NotFiniteError, match=r"step 7|after step") as caught:
        spoiled.fit(data(), 3, 32, rng=0, callbacks=[NaNGuard(), Overflows()])
    assert spoiled.steps <= 6
    assert caught.value.step >= 7


def test_the_first_layer_is_named() -> None:
    class Explodes(nn.Module):
        def forward(self, x: Any) -> Any:
            return np.full_like(x, np.inf), None

        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            return dy

        def output_shape(self, input_shape: Any) -> Any:
            return input_shape

    layers = [nn.Linear(6, 8, rng=0), nn.ReLU(), Explodes(), nn.Linear(8, 4, rng=0)]
    mlp = nn.Sequential(*layers)
    with pytest.raises(NotFiniteError, match="step 1: the output of Explodes '2' is not finite"):
        Trainer(mlp).fit(data(), 1, 32, rng=0)


def test_weights_that_are_bad_from_the_beginning() -> None:
    spoiled = trainer()
    spoiled.net[0].bias.data[3] = np.nan  # type: ignore[index]
    with pytest.raises(NotFiniteError, match=r"0\.bias has values that are not finite before"):
        spoiled.fit(data(), 1, 32, rng=0)


def test_the_guard_can_be_sent_away() -> None:
    spoiled = trainer(Spoils(5, value=np.nan))
    history = spoiled.fit(data(), 1, 32, rng=0, callbacks=[NaNGuard(enabled=False)])
    assert np.isnan(history.loss[0])


def test_a_checkpoint_behind_the_error_goes_on_there(tmp_path: Any) -> None:
    spoiled = trainer(Spoils(14, value=np.nan))
    with pytest.raises(NotFiniteError):
        spoiled.fit(data(), 3, 32, rng=0)
    spoiled.save(tmp_path / "last.safetensors")
    plain, resumed = trainer(), trainer().resume(tmp_path / "last.safetensors")
    assert resumed.steps == 13
    plain.fit(data(), 3, 32, rng=0)
    history = resumed.fit(data(), 3, 32, rng=0)
    np.testing.assert_equal(plain.net.state_dict(), resumed.net.state_dict())
    assert history.loss == plain.history.loss


def test_a_source_that_cannot_be_walked_again() -> None:
    x, y = data()
    x[200:] = np.nan
    spoiled = trainer()
    before = copy.deepcopy(spoiled.net)
    batches = ((x[i : i + 32], y[i : i + 32]) for i in range(0, 320, 32))
    with pytest.raises(NotFiniteError, match=r"at step 7: the loss was nan.*after step"):
        spoiled.fit(batches, 1, rng=0)
    if spoiled.steps == 0:
        np.testing.assert_equal(before.state_dict(), spoiled.net.state_dict())
    for array in spoiled.net.state_dict().values():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("step", [2, 10, 14, 20])  # an epoch has ten
def test_averages_and_history_are_those_of_before(step: int, first: bool, tmp_path: Any) -> None:
    spoiled, stopped = trainer(Spoils(step, gradient=np.nan)), trainer()
    ours, theirs = optim.EMA(spoiled.net, 0.9), optim.EMA(stopped.net, 0.9)
    guarded: list[Any] = [ours, NaNGuard()] if first else [NaNGuard(), ours]
    with pytest.raises(NotFiniteError, match=f"step {step}: the gradient"):
        spoiled.fit(data(), 3, 32, callbacks=guarded, rng=0)
    stopped.fit(data(), 3, 32, callbacks=[theirs, StopsAt(step - 1)], rng=0)
    np.testing.assert_equal(ours.state_dict(), theirs.state_dict())
    assert len(spoiled.history.epochs) == (step - 1) // 10
    spoiled.save(tmp_path / "last.safetensors")
    resumed, whole = trainer().resume(tmp_path / "last.safetensors"), trainer()
    resumed.fit(data(), 3, 32, rng=0)
    whole.fit(data(), 3, 32, rng=0)
    assert resumed.history.loss == whole.history.loss
    np.testing.assert_equal(resumed.net.state_dict(), whole.net.state_dict())
