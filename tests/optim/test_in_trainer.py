"""Schedules, groups, Lookahead and EMA in a Trainer, interrupted and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim
from fastbn.optim import schedules
from fastbn.train import Callback, Trainer


class Interrupt(Callback):
    """Write a checkpoint at a step, and stop there."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_step(self, trainer: Trainer) -> None:
        if trainer.steps == self.step:
            trainer.save(self.path)
            trainer.should_stop = True


def samples() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def make() -> tuple[Trainer, optim.EMA]:
    net = nn.Sequential(nn.Linear(5, 8, rng=0), nn.BatchNorm(8), nn.GELU(), nn.Linear(8, 2, rng=1))
    sgd = optim.SGD(
        optim.no_decay(net, 0.01), lr=schedules.one_cycle(0.1, 24), momentum=0.9, nesterov=True
    )
    lookahead = optim.Lookahead(sgd, k=3, alpha=schedules.polynomial(0.9, 24, end=0.3), net=net)
    return Trainer(net, nn.CrossEntropyLoss(label_smoothing=0.1), lookahead), optim.EMA(net, 0.9)


def fit(trainer: Trainer, *callbacks: Any) -> None:
    trainer.fit(samples(), epochs=4, batch_size=10, callbacks=callbacks, clip_norm=1.0, rng=0)


@pytest.mark.parametrize("step", [4, 12, 13])
def test_an_interrupted_run_ends_as_one_that_was_not(step: int, tmp_path: Path) -> None:
    whole, ema = make()
    fit(whole, ema)
    first, first_ema = make()
    fit(first, first_ema, Interrupt(step, tmp_path / "last.safetensors"))
    assert first.steps == step
    second, second_ema = make()
    second.resume(tmp_path / "last.safetensors")
    fit(second, second_ema, Interrupt(-1, tmp_path))
    assert second.steps == whole.steps == 24
    assert second_ema.updates == ema.updates == 24
    for trainer, average in ((whole, ema), (second, second_ema)):
        average.apply(samples()[0][i : i + 10] for i in range(0, 60, 10))
        assert trainer.optimizer.steps == 24  # type: ignore[attr-defined]
    for name, array in whole.net.state_dict().items():
        np.testing.assert_array_equal(array, second.net.state_dict()[name], err_msg=name)
