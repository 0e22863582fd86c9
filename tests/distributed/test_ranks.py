"""Several ranks train as one process does: gradients, losses, statistics, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_ranks
from jobs import Job

PROGRAM = str(Path(train_ranks.__file__))

# One job trains them all, for starting a job costs more than training so little.
RUNS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "uneven batches, some ranks without a row": {"name": "mlp", "rows": 27},
    "convnet": {"name": "convnet", "epochs": 5},
    "accumulated": {"name": "convnet", "rows": 27, "accumulate": 2, "epochs": 3},
}


def together(job: Job, ranks: int, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = job(ranks, PROGRAM, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def difference(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-300))


def require_same(alone: dict[str, Any], found: dict[str, Any]) -> None:
    assert len(found["losses"]) == len(alone["losses"])
    assert difference(alone["losses"], found["losses"]) < 1e-11
    for name, gradient in alone["gradients"].items():
        own = np.asarray(found["gradients"][name])
        if np.abs(gradient).max() < 1e-12:  # of a bias in front of BatchNorm
            assert np.abs(own).max() < 1e-12, name
        else:
            assert difference(gradient, own) < 1e-12, name
    for name, values in alone["buffers"].items():
        assert difference(values, found["buffers"][name]) < 1e-10, name
    assert difference(alone["val_loss"], found["val_loss"]) < 1e-10
    assert found["val_accuracy"] == alone["val_accuracy"]
    assert found["metrics"] == alone["metrics"]
    assert found["steps"] == alone["steps"]


@pytest.fixture(scope="module")
def alone() -> list[dict[str, Any]]:
    return [train_ranks.train(told, None) for told in RUNS.values()]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_is_one_process(
    job: Job, alone: list[dict[str, Any]], ranks: int
) -> None:
    for expected, found in zip(alone, together(job, ranks, [*RUNS.values()]), strict=True):
        require_same(expected, found)


def test_resnet(job: Job) -> None:
    told = {"name": "resnet20"}
    rates = {"name": "mlp", "lr_find": True}
    found, tried = together(job, 3, [told, rates])
    require_same(train_ranks.train(told, None), found)
    assert difference(train_ranks.train(rates, None)["losses"], tried["losses"]) < 1e-11


def test_float32_differs_as_rounding_does(job: Job) -> None:
    told = {"name": "convnet", "dtype": "float32", "epochs": 50, "lr": 0.2}
    expected = train_ranks.train(told, None)
    spread = max(
        np.abs(
            np.subtract(train_ranks.train({**told, "nudge": n}, None)["losses"], expected["losses"])
        ).max()
        for n in range(1, 6)
    )
    found, again = together(job, 3, [told, told])
    for name, gradient in expected["gradients"].items():
        if np.abs(gradient).max() > 1e-6:
            assert difference(gradient, found["gradients"][name]) < 1e-5, name
    assert np.abs(np.subtract(found["losses"], expected["losses"])).max() <= 3 * spread
    assert again == found  # to the bit, weights included


def test_another_bn(job: Job) -> None:
    runs = [{"name": "mlp", "bn": bn, "rows": 26} for bn in ("local", "ghost")]
    for found in together(job, 2, runs):
        assert found["steps"] == [2] * 5  # the last batch leaves one row each
        assert found["losses"][-1] < found["losses"][0]


def test_checkpoint_goes_on_with_any_number_of_ranks(job: Job, tmp_path: Path) -> None:
    path = str(tmp_path / "last.safetensors")
    told = {"name": "convnet", "rows": 26, "epochs": 4}
    whole = train_ranks.train(told, None)
    never_stopped, first, gone_on = together(
        job, 4, [told, {**told, "stop": 4, "save": path}, {**told, "resume": path}]
    )
    assert gone_on["bits"] == never_stopped["bits"]
    assert [*first["losses"], *gone_on["losses"]] == never_stopped["losses"]
    assert len(first["losses"]) == 5  # the others hear of it with the step that comes
    for ranks in (1, 2, 3):
        (rest,) = together(job, ranks, [{**told, "resume": path}])
        assert difference(whole["losses"], [*first["losses"], *rest["losses"]]) < 1e-11
        assert difference(whole["val_loss"], rest["val_loss"]) < 1e-10


def test_drift_and_numbers_that_are_not_finite_are_told(job: Job) -> None:
    drifted, exploded = together(
        job, 2, [{"name": "mlp", "drift": 3}, {"name": "mlp", "explode": True, "check_every": 100}]
    )
    assert "after step 5 the ranks have drifted apart: 0.weight of rank 1" not in drifted
    assert "after step 5 the ranks have drifted apart" in drifted
    assert "not finite: loss of rank 0, 1" in exploded
