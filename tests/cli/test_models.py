"""fastbn models: what the table says of the networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fastbn import models

Run = Callable[..., int]


def test_numbers_are_those_of_the_networks(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "mlp", "shufflenet_v2", "--size", "64", "--json") == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["input_shape"]) for row in rows] == [
        ("mlp", [64, 64, 1]),
        ("shufflenet_v2", [64, 64, 3]),
    ]
    net = models.shufflenet_v2((64, 64, 3), rng=0)
    assert rows[1]["flop"] == net.flops()
    assert rows[1]["parameters"] == 2_278_604
    assert all(row["ms"] > 0 for row in rows)


def test_the_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "mlp", "convnet") == 0
    shown = capsys.readouterr().out
    assert "28×28×1" in shown
    assert "110 k" in shown
    assert "11.6 M" in shown


def test_what_there_is_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "resnet9000") == 2
    assert "'resnet9000' is not one of" in capsys.readouterr().err
    assert run("models", "vgg11_bn", "--size", "16") == 2
    assert "H and W at least 32" in capsys.readouterr().err
