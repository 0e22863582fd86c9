"""The CIFAR-10 recipe: its figures, a run of it, and PyTorch beside."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fastbn import data as datasets
from fastbn import nn
from fastbn.bench.cifar import compare, recipe, run, show
from fastbn.bench.cifar.recipe import Recipe
from fastbn.bench.peers.client import Worker
from fastbn.bench.profile import Profile
from fastbn.cli import app
from fastbn.train import plot

TINY = Recipe(epochs=2.5, batch=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like CIFAR-10's, of few images whose colour tells the class."""
    base = tmp_path_factory.mktemp("data")
    folder = base / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = rng.integers(0, 10, 20, np.uint8)
        planes = rng.integers(0, 40, (20, 3, 1024)) + 20 * labels[:, None, None] * [[1], [0], [1]]
        records = np.concatenate([labels[:, None], planes.reshape(20, -1)], axis=1)
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    return base


@pytest.fixture(scope="module")
def images(root: Path) -> datasets.Dataset:
    return recipe.images_of(datasets.load("cifar10", root), 32)


def test_rates_are_those_of_the_source() -> None:
    made, steps = Recipe(), 476
    assert made.steps(50_000) == steps
    peak = 11.5 / (1024 * (1 + 1 / 0.15)) * 1024  # of summed losses, for their mean
    rate = made.learning_rate(steps)
    expected = np.interp(np.arange(steps + 1), [0, int(0.23 * steps), steps], [0.2, 1.0, 0.07])
    np.testing.assert_allclose([rate(n) for n in range(steps + 1)], peak * expected, rtol=1e-12)
    first = made.learning_rate(steps, 144)
    np.testing.assert_allclose([first(n) for n in range(144)], peak * expected[:144], rtol=1e-12)
    assert {first(n) for n in range(144, steps)} == {0.0}
    slow = made.slow_part(50_000)
    assert slow(5) == pytest.approx(1 - 0.95**5 * (5 / 476) ** 3)


def test_groups_hold_every_trained_parameter_once(images: datasets.Dataset) -> None:
    net = recipe.network(np.asarray(images.x_train), 0)
    groups = TINY.groups(net, 32)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    decayed = [group["lr"](3) * group["weight_decay"] for group in groups]
    # a plain subtraction, the same from all that is still trained
    np.testing.assert_allclose(decayed, decayed[2], rtol=1e-12)
    assert groups[1]["lr"](3) == pytest.approx(64 * groups[2]["lr"](3))
    assert isinstance(net[0], nn.Conv2d)
    assert not net[0].weight.requires_grad


def test_flop_is_what_a_step_does(images: datasets.Dataset) -> None:
    net = recipe.network(np.asarray(images.x_train), 0).train()
    assert isinstance(net[0], nn.Conv2d)
    frozen = recipe.flop(net, images.input_shape)
    net[0].weight.requires_grad = True
    assert recipe.flop(net, images.input_shape) - frozen == 2 * 31 * 31 * 24 * 12
    x = np.asarray(images.x_train[:4])
    with Profile() as profile:
        net.backward(np.ones_like(net(x)))
    assert profile.flops == recipe.flop(net, images.input_shape) * 4


def test_a_run_stops_in_its_last_epoch_and_learns(images: datasets.Dataset, tmp_path: Path) -> None:
    told: list[str] = []
    one, net = run.train_once(images, TINY, 0, tell=told.append)
    assert one.steps == TINY.steps(32) == len(one.losses) == len(told) == 10
    assert len(one.curve) == 3
    assert [seconds for seconds, _ in one.curve] == sorted(seconds for seconds, _ in one.curve)
    assert one.losses[-1] < one.losses[0]
    assert 0.0 <= one.accuracy <= 1.0
    assert not net.training
    again, _ = run.train_once(images, TINY, 0)
    assert again.losses == one.losses
    run.save(one, tmp_path / "one.json")
    assert run.load(tmp_path / "one.json") == one
    assert "accuracy: mean" in show.lines([one, again])[0]
    with pytest.raises(ValueError, match="one batch takes 1024 images, but there are 32"):
        run.train_once(images, Recipe(), 0)


def test_command(root: Path, tmp_path: Path) -> None:
    command = ["bench", "cifar", "--data", str(root), "--epochs", "1", "--batch", "50"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*command, "--seeds", "1", "-o", str(tmp_path / "runs")])
        assert done.exit_code == 0, done.output
        assert "accuracy, six views: mean" in done.output
    assert "is there" in done.output
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names - {"accuracy.png"} == {"gelu-1-100-seed0.json", "gelu-1-100-seed0.safetensors"}
    assert ("accuracy.png" in names) == plot.available()


def test_plot_of_runs_and_a_peer(images: datasets.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, _ = run.train_once(images, TINY, 0)
    peer = compare.PeerTime("eager", 4, 20.0, 3 * one.seconds)
    show.plot([one], [], tmp_path / "alone.png")
    show.plot([one], [peer], tmp_path / "beside.png")
    assert (tmp_path / "alone.png").read_bytes() != (tmp_path / "beside.png").read_bytes()


def test_variants_are_chosen_by_a_part_of_their_name() -> None:
    assert compare.choose_variants("eager") == ["eager", "eager channels_last"]
    assert compare.choose_variants("compile") == ["compile channels_last"]
    assert compare.choose_variants("") == list(compare.VARIANTS)
    with pytest.raises(ValueError, match="variants: 'onnx' is no part of eager, "):
        compare.choose_variants("onnx")


@pytest.mark.usefixtures("torch")
def test_command_beside_pytorch(root: Path, tmp_path: Path) -> None:
    command = ["bench", "cifar", "--data", str(root), "--epochs", "1", "--batch", "50"]
    command += ["--seeds", "1", "-o", str(tmp_path)]
    wanted = ["--peers", "torch", "--variants", "eager channels_last"]
    done = CliRunner().invoke(app, [*command, *wanted])
    assert done.exit_code == 0, done.output
    assert "PyTorch eager channels_last: " in done.output


@pytest.mark.usefixtures("torch")
def test_pytorch_trains_the_same(root: Path, images: datasets.Dataset) -> None:
    with Worker("torch", "cifar", 1) as worker:
        asked = {"root": str(root), "images": 32, "recipe": asdict(TINY), "seed": 0}
        opened = worker.ask("open", variant="eager channels_last", **asked)
        theirs = worker.ask("turn", steps=opened["steps"])["losses"]
        assert 0.0 <= worker.ask("accuracy")["accuracy"] <= 1.0
        worker.ask("open", variant="eager", jolted=True, **asked)
        worker.ask("turn", steps=1)
        gradients = worker.ask("gradients")
    exact = compare.gradients_of(images, TINY, "float64")
    assert compare.worst(compare.gradients_of(images, TINY), exact) < 1e-4
    assert compare.worst(gradients, exact) < 1e-4
    ours = compare.losses_of(images, TINY)
    others = [compare.losses_of(images, TINY, disturb=n) for n in range(1, 6)]
    spread = max(np.max(np.abs(np.subtract(ours, other))) for other in others)
    assert np.max(np.abs(np.subtract(ours, theirs))) <= 3 * spread
