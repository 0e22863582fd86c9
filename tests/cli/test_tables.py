"""Tables from end to end: ``fastbn train --target``, ``predict``, ``export``, ``report``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import train

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]

pandas = pytest.importorskip("pandas", reason="tables are read by pandas")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A table of prices, as large as prices are, and a network that was trained on it."""
    root = tmp_path_factory.mktemp("prices")
    rng = np.random.default_rng(0)
    rooms, age = rng.integers(1, 8, 1200), rng.uniform(0.0, 90.0, 1200)
    town = rng.choice(["north", "south", "west"], 1200)
    price = 45_000.0 * rooms - 900.0 * age + 60_000.0 * (town == "west") + 150_000.0
    table = pandas.DataFrame({"rooms": rooms, "age": age, "town": town})
    table["price"] = price + rng.normal(0.0, 8_000.0, 1200)
    table.loc[::50, "age"] = np.nan
    table.to_csv(root / "prices.csv", index=False)
    options = ("--epochs", "25", "--val-split", "0.1", "--ema", "0.9", "--quiet")
    arguments = ("--data", root / "prices.csv", "--target", "price", "-o", root / "run")
    assert run("train", "mlp", *arguments, *options) == 0
    return root


def report(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "run/report.json").read_text(encoding="utf-8"))
    return told


def predicted(run: Run, capsys: Capture, *arguments: str | Path) -> Any:
    capsys.readouterr()
    assert run("predict", *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    return np.array([entry["predictions"][0]["value"] for entry in found])


def test_numbers_are_told_in_their_own_unit(run: Run, capsys: Capture, folder: Path) -> None:
    table = pandas.read_csv(folder / "prices.csv")
    told = report(folder)
    assert told["test_r2"] > 0.95
    assert 6_000 < told["test_mae"] < 20_000  # the noise alone makes 6,400
    assert told["test_accuracy"] is None
    assert 0.0 < told["test_loss"] < 0.05  # in squares of the standard deviation
    weights = folder / "run/model.safetensors"
    found = predicted(run, capsys, weights, folder / "prices.csv")
    assert np.abs(found - table["price"]).mean() == pytest.approx(told["test_mae"], rel=0.25)
    # The network itself learned normalised prices, as the file says.
    _, metadata = train.read(weights)
    assert metadata.target_normalization["mean"] == [pytest.approx(table["price"].mean(), rel=0.02)]
    assert metadata.target_normalization["std"] == [pytest.approx(table["price"].std(), rel=0.05)]


def test_an_exported_file_predicts_the_same(
    run: Run, capsys: Capture, folder: Path, tmp_path: Path
) -> None:
    known = predicted(run, capsys, folder / "run/model.safetensors", folder / "prices.csv")
    assert run("export", folder / "run/model.safetensors", "-o", tmp_path / "m.onnx") == 0
    found = predicted(run, capsys, tmp_path / "m.onnx", folder / "prices.csv")
    np.testing.assert_allclose(found, known, rtol=1e-4)


def test_the_report(run: Run, folder: Path) -> None:
    before = report(folder)
    assert run("report", folder / "run", "--quiet") == 0
    told = report(folder)
    for name in ("test_mae", "test_r2", "test_loss", "history"):
        assert told[name] == before[name], name
    page = (folder / "run/report.html").read_text(encoding="utf-8")
    assert "R²" in page
    assert "mean absolute error" in page
    assert "Confusion" not in page


def test_a_run_goes_on_from_any_folder(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that were named from the folder of the command are found again from another one."""
    monkeypatch.chdir(folder)
    options = ("--data", "prices.csv", "--target", "price", "--epochs", "1", "--quiet")
    assert run("train", "mlp", *options, "-o", "here") == 0
    monkeypatch.chdir(tmp_path)
    assert run("train", "--resume", folder / "here", "--quiet") == 0
    assert run("report", folder / "here", "--quiet") == 0
    assert run("train", folder / "here/config.toml", "-o", "there", "--quiet") == 0


def test_a_checkpoint_predicts_in_the_unit_too(run: Run, capsys: Capture, folder: Path) -> None:
    """Of the weights of the last step, which are not the averages."""
    found = predicted(run, capsys, folder / "run/last.safetensors", folder / "prices.csv")
    table = pandas.read_csv(folder / "prices.csv")
    assert 6_000 < np.abs(found - table["price"]).mean() < 25_000


def test_a_network_that_does_not_end_in_a_linear(
    run: Run, capsys: Capture, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns the numbers as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    Path("own_prices.py").write_text(
        "from fastbn import nn\n"
        "def net(input_shape, classes, rng):\n"
        "    return nn.Sequential(nn.Linear(*input_shape, classes, rng=rng), nn.Softplus())\n",
        encoding="utf-8",
    )
    options = ("--data", folder / "prices.csv", "--target", "price", "--epochs", "1", "--quiet")
    assert run("train", "own_prices:net", *options, "-o", "own") == 0
    _, metadata = train.read("own/model.safetensors")
    assert metadata.target_normalization == {}


def test_a_file_that_lies(run: Run, capsys: Capture, folder: Path, tmp_path: Path) -> None:
    net = train.load(folder / "run/model.safetensors")
    for told, message in (
        ({"mean": [0.0], "std": [0.0]}, "metadata of wrong type: target_normalization"),
        ({"mean": [0.0, 0.0], "std": [1.0, 1.0]}, "a Linear with bias of 2 outputs"),
    ):
        train.save(net, tmp_path / "wrong.safetensors", target_normalization=told)
        capsys.readouterr()
        assert run("predict", tmp_path / "wrong.safetensors", folder / "prices.csv") == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "prise"), "has no column 'prise', did you mean 'price'?"),
        ((), "name the column to predict"),
        (("--target", "price", "--label-smoothing", "0.1"), "for classes"),
        (("--target", "price", "--balanced"), "for classes"),
    ],
)
def test_wrong_use(
    run: Run, capsys: Capture, folder: Path, tmp_path: Path, options: Any, message: str
) -> None:
    capsys.readouterr()
    arguments = ("--data", folder / "prices.csv", "-o", tmp_path / "run", *options)
    assert run("train", "mlp", *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") <= 2
    assert not (tmp_path / "run").exists()
