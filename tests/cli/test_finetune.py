"""fastbn finetune: new heads, what stays frozen, where networks come from, and the folder."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fastbn import data, models, nn, train
from fastbn.cli.tuned import parts_of
from fastbn.export import to_onnx, validate
from fastbn.nn.parts import cut
from fastbn.train import run as runs
from fastbn.train.callbacks import Callback
from fastbn.train.config import Config
from fastbn.train.finetune import Tuning
from fastbn.train.prepare import prepare

Run = Callable[..., int]

pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
pytest.importorskip("PIL", reason="folders of images need Pillow")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of a network that knows digits, among other classes."""
    folder = tmp_path_factory.mktemp("pretrained")
    net = models.convnet((8, 8, 1), 14, channels=(8, 8), hidden=24, rng=0)
    pixels = data.Normalization(np.array([0.25]), np.array([0.5]))
    digits = data.load("digits").normalized(pixels)
    train.Trainer(net).fit((digits.x_train, digits.y_train), 3, rng=0)
    normalization = {"mean": [0.25], "std": [0.5]}
    train.save(net, folder / "net.safetensors", input_normalization=normalization)
    to_onnx(net, folder / "net.onnx")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Dark and light images of 40×40 pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 100)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(low, low + 100, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def state(folder: str) -> dict[str, Any]:
    return train.read(Path(folder) / "model.safetensors")[0]


def told(folder: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    return report


def changed(folder: str, before: Path) -> set[str]:
    """Names of weights of the same shape that are other ones."""
    old, new = train.read(before)[0], state(folder)
    assert new.keys() == old.keys()
    return {
        key
        for key, value in new.items()
        if value.shape == old[key].shape and (value != old[key]).any()
    }


def test_a_new_head_on_frozen_layers(run: Run, pretrained: Path) -> None:
    source = pretrained / "net.safetensors"
    assert (
        run("finetune", source, "--data", "digits", "-o", "run", "--epochs", "6", "--lr", "0.01")
        == 0
    )
    assert changed("run", source) == set()
    assert state("run")["11.weight"].shape == (10, 24)
    report = told("run")
    assert report["test_accuracy"] > 0.8
    assert report["bn_before"] == 3  # the normalisation of the pixels is one
    assert report["argmax_agreement"] == 1.0
    net = train.load(Path("run") / "model.safetensors", inference=True)
    _, metadata = train.read(Path("run") / "model.safetensors")
    assert metadata.input_normalization == {"mean": [0.25], "std": [0.5]}
    assert metadata.arguments["classes"] == 10
    assert net.output_shape((8, 8, 1)) == (10,)


def test_layers_that_are_not_frozen_learn_slowly(run: Run, pretrained: Path) -> None:
    source = pretrained / "net.safetensors"
    recipe = ("--epochs", "2", "--head-epochs", "3", "--lr", "0.01", "-q")
    common = ("finetune", source, "--data", "digits", *recipe)
    assert run(*common, "-o", "one", "--freeze", "1", "--bn", "frozen") == 0
    moved = changed("one", source)
    assert not any(name.startswith(("0.", "1.")) for name in moved)
    assert {"4.weight", "5.weight", "9.weight"} <= moved
    assert not any("running" in name for name in moved)
    assert (
        run(*common, "-o", "all", "--freeze", "none", "--bn", "train", "--augment", "brightness")
        == 0
    )
    assert {"0.weight", "1.running_mean", "9.weight"} <= changed("all", source)
    assert told("all")["test_accuracy"] > 0.8
    assert (
        run(*common, "-o", "still", "--freeze", "none", "--backbone-lr", "0", "--bn", "frozen") == 0
    )
    assert changed("still", source) == set()


def test_onnx_in_and_out(run: Run, pretrained: Path) -> None:
    source = pretrained / "net.onnx"
    rest = ("--data", "digits", "--mean", "0.25", "--std", "0.5", "--lr", "0.01", "-q")
    assert run("finetune", source, *rest, "--epochs", "6", "-o", "run") == 0
    report = told("run")
    assert report["test_accuracy"] > 0.8
    assert report["max_rel_f64"] < 1e-4
    assert validate(Path("run") / "model.onnx", Path("run") / "model.onnx").agree
    assert run("report", "run", "-q") == 0
    assert told("run")["test_accuracy"] == report["test_accuracy"]


def test_freeze_none_trains_what_comes_first() -> None:
    layers = [nn.BatchNorm(3), nn.Conv2d(3, 8, 3, rng=0), nn.GlobalAvgPool2d(), nn.Linear(8, 4)]
    for freeze, frozen in (("none", []), ("1", [0, 1]), ("backbone", [0, 1])):
        net = nn.Sequential(*(copy.deepcopy(layer) for layer in layers)).build((8, 8, 3))
        config = Config("own", "images", freeze=freeze, norms="train")
        Tuning(net, 5, config)
        held = [n for n in (0, 1) if not net[n].weight.requires_grad]
        assert held == frozen


def test_a_run_is_repeated_from_another_folder(
    run: Run, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("net.onnx").write_bytes((pretrained / "net.onnx").read_bytes())
    assert run("finetune", "net.onnx", "--data", "digits", "--epochs", "1", "-o", "run", "-q") == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    config = Path("..") / "run" / "config.toml"
    assert run("finetune", config, "-o", "again", "-q") == 0
    ours, theirs = state("again"), state("../run")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_model_and_its_published_weights(run: Run, images: Path) -> None:
    other = models.mobilenet_v2((64, 64, 3), 30, width=0.25, rng=1)
    other(np.random.default_rng(0).standard_normal((4, 64, 64, 3)).astype(np.float32))
    save_file(other.state_dict(), "weights.safetensors")
    small = ("--set", "width=0.25", "--size", "32", "--data", images, "-q")
    assert run("finetune", "mobilenet_v2", "--weights", "weights.safetensors", *small) == 0
    new = state("fastbn-run")
    assert new["classifier.1.weight"].shape == (2, 1280)
    before = other.state_dict()
    np.testing.assert_array_equal(new["features.0.0.weight"], before["features.0.0.weight"])
    _, metadata = train.read(Path("fastbn-run") / "model.safetensors")
    assert metadata.input_shape == [32, 32, 3]
    assert metadata.input_normalization["mean"] == [0.485, 0.456, 0.406]
    assert metadata.classes == ["dark", "light"]


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: train.Trainer) -> None:
        if trainer.steps == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_interrupted_and_resumed_it_ends_the_same(run: Run, pretrained: Path, freeze: str) -> None:
    def config(folder: str) -> Config:
        return Config(
            str(pretrained / "net.safetensors"), "digits", folder, freeze=freeze, epochs=2,
            head_epochs=1, schedule="cosine",
        )  # fmt: skip

    runs.train(config("whole"), progress=False)
    with pytest.raises(runs.InterruptedRun):
        runs.train(config("halves"), callbacks=[Interrupt(30)], progress=False)
    assert run("finetune", "--resume", "halves", "-q") == 0
    np.testing.assert_equal(state("halves"), state("whole"))


def test_frozen_layers_are_computed_once(pretrained: Path) -> None:
    config = Config(str(pretrained / "net.safetensors"), "digits", "run", freeze="backbone")
    prepared = prepare(config, **{k: v for k, v in parts_of(config).items() if k == "source"})
    assert prepared.data.input_shape == (24,)
    assert isinstance(prepared.net, nn.Sequential)
    assert prepared.tuning is not None
    parts = cut(prepared.net, prepared.tuning.frozen)
    assert parts is not None
    assert [type(module) for module in parts[1].modules()] == [nn.Sequential, nn.Linear]
    expected = parts[0].predict(prepared.samples.x_train[:4])
    np.testing.assert_array_equal(prepared.data.x_train[:4], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilenet_v2"], "name the weights of mobilenet_v2 with --weights"),
        (["net.safetensors", "--weights", "x.pth"], "has weights already"),
        (["net.onnx", "--weights", "x.pth"], "has weights already"),
        (["net.safetensors", "--freeze", "some"], "freeze: there is no 'some'"),
        (["net.safetensors", "--mean", "0.5"], "both --mean and --std"),
        (["net.safetensors", "--mean", "0.5", "--std", "0"], "std above 0"),
    ],
)
def test_what_is_refused(
    run: Run, pretrained: Path, arguments: list[str], message: str, capsys: Any,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(pretrained)
    folder = tmp_path / "out"
    assert run("finetune", *arguments, "--data", "digits", "-o", folder) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()
