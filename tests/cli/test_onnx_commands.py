"""``fastbn fold``, ``fastbn validate`` and the options of ``fastbn export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn import data, models, train
from fastbn.bench.patterns import PATTERNS, networks
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm
from fastbn.export.fold import backward
from fastbn.train import run as training
from fastbn.train.config import Config
from fastbn.train.factory import network

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, path: str = "in.onnx") -> Path:
    onnx.save(PATTERNS[name].build(), path)
    return Path(path)


def operators(path: str) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_fold(run: Run, capsys: Capture) -> None:
    source = written("conv-bn-mul-add-relu")
    before = source.read_bytes()
    assert run("fold", source, "-o", "out.onnx", "--report", "report.json") == 0
    assert operators("out.onnx") == ["Conv", "Relu"]
    assert source.read_bytes() == before
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert (report["bn_before"], report["bn_left"], report["affine_left"]) == (1, 0, 0)
    assert report["nodes_after"] == report["nodes_before"] - 3
    assert report["max_abs_f64"] < 1e-4
    (entry,) = report["nodes"]
    assert entry["action"] == "folded"
    assert entry["into"]
    printed = capsys.readouterr().out
    assert "bn_left" in printed
    assert "what stayed" not in printed
    assert run("validate", source, "out.onnx") == 0


def test_fold_says_why_a_norm_stayed(run: Run, capsys: Capture) -> None:
    assert run("fold", written("bn-conv-padded"), "-o", "out.onnx", "--report", "report.json") == 0
    (entry,) = json.loads(Path("report.json").read_text(encoding="utf-8"))["nodes"]
    assert entry["action"] == "kept"
    assert "is a graph input" in entry["reason"]
    printed = capsys.readouterr().out
    assert "what stayed, and why" in printed
    assert entry["node"] in printed


def test_fold_over_the_input_only_if_asked(run: Run, capsys: Capture) -> None:
    source = written("conv-bn")
    before = source.read_bytes()
    assert run("fold", source, "-o", source) == 2
    assert "the input itself" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert run("fold", source, "-o", source, "--overwrite") == 0
    assert operators("in.onnx") == ["Conv", "Relu"]
    assert [path.name for path in Path().iterdir()] == ["in.onnx"]


@pytest.mark.parametrize("report", ["in.onnx", "out.onnx", "check.npz"])
def test_the_report_is_never_written_over_another_file(
    run: Run, capsys: Capture, report: str
) -> None:
    source = written("conv-bn")
    before = source.read_bytes()
    options = ("--report", report, "--check-data", "check.npz")
    assert run("fold", source, "-o", "out.onnx", *options) == 2
    assert "name another file" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert not Path("out.onnx").exists()


def test_fold_on_given_data(run: Run, capsys: Capture) -> None:
    source = written("conv-bn")
    (name,) = [value.name for value in onnx.load(source).graph.input]
    dims = [d.dim_value or 2 for d in onnx.load(source).graph.input[0].type.tensor_type.shape.dim]
    np.savez("check.npz", **{name: np.random.default_rng(0).standard_normal(dims)})
    fold = ("fold", source, "-o", "out.onnx", "--check-data")
    assert run(*fold, "check.npz") == 0
    assert run("validate", source, "out.onnx", "--check-data", "check.npz") == 0
    Path("out.onnx").unlink()
    capsys.readouterr()
    np.savez("other.npz", other=np.zeros(3))
    np.save("bare.npy", np.zeros(3))
    np.savez("object.npz", x=np.array([{}], dtype=object))
    Path("torn.npz").write_bytes(Path("check.npz").read_bytes()[:40])
    for file, message in (
        ("other.npz", "check data has no array"),
        ("nowhere.npz", "no such file"),
        ("bare.npy", "arrays by name"),
        ("object.npz", "not a whole .npz file"),
        ("torn.npz", "not a whole .npz file"),
    ):
        assert run(*fold, file) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not Path("out.onnx").exists()


def test_a_wrong_fold_is_not_written(
    run: Run, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = backward.add_bias
    monkeypatch.setattr(
        backward, "add_bias", lambda p, n, i, scale, shift: honest(p, n, i, scale, shift + 1e-3)
    )
    source = written("conv-bn")
    Path("out.onnx").write_text("old")
    assert run("fold", source, "-o", "out.onnx", "--report", "report.json") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert Path("out.onnx").read_text() == "old"
    assert not Path("report.json").exists()
    assert run("fold", source, "-o", "out.onnx", "--no-verify") == 0
    assert "not verified" in capsys.readouterr().out
    assert run("validate", source, "out.onnx") == 1


def test_shared_weights_are_copied_if_asked(run: Run) -> None:
    source = Path("in.onnx")
    onnx.save(networks.shared(Sketch(0), width=40), source)
    assert run("fold", source, "-o", "plain.onnx") == 0
    assert run("fold", source, "-o", "copied.onnx", "--duplicate-shared") == 0
    counts = [operators(path).count("BatchNormalization") for path in ("plain.onnx", "copied.onnx")]
    assert counts == [2, 0]


def test_fold_even_if_slower(run: Run) -> None:
    _, fast = fold_batch_norm(PATTERNS["conv-relu-bn"].build())
    _, slow = fold_batch_norm(PATTERNS["conv-relu-bn"].build(), allow_slower=True)
    assert fast.bn_left > slow.bn_left
    assert run("fold", written("conv-relu-bn"), "-o", "out.onnx", "--allow-slower") == 0
    assert operators("out.onnx").count("BatchNormalization") == slow.bn_left


def test_a_damaged_file(run: Run, capsys: Capture) -> None:
    source = written("conv-bn")
    source.write_bytes(source.read_bytes()[:-20])
    assert run("fold", source, "-o", "out.onnx") == 2
    error = capsys.readouterr().err
    assert error.startswith("fastbn: error: in.onnx: ")
    assert error.count("\n") == 1
    assert not Path("out.onnx").exists()


def test_a_folder_that_is_not_there(run: Run, capsys: Capture) -> None:
    source = written("conv-bn")
    assert run("fold", source, "-o", "nowhere/out.onnx") == 2
    assert run("fold", source, "-o", "out.onnx", "--report", "nowhere/report.json") == 2
    assert capsys.readouterr().err.count("nowhere is no folder") == 2
    assert not Path("out.onnx").exists()


def test_bench_fold(run: Run, capsys: Capture) -> None:
    options = ("--models", "conv-bn,bn-conv-1x1", "--tools", "fastbn,onnxruntime-basic")
    assert run("bench", "fold", *options, "--rounds", "0", "--json", "t.json", "--details") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["conv-bn", "1", "0", "0+0", "0+0"]
    assert printed[2].split() == ["bn-conv-1x1", "1", "0", "0+0", "1+0"]
    assert printed[-1] == "fastbn: fewest left, none wrong, none slower"
    rows = json.loads(Path("t.json").read_text(encoding="utf-8"))["rows"]
    assert {row["tool"] for row in rows} == {"fastbn", "onnxruntime-basic"}
    assert run("bench", "fold", "--models", "nothing", "--rounds", "0") == 2
    assert "unknown pattern 'nothing'" in capsys.readouterr().err


# --- fastbn export ----------------------------------------------------------------------------

WEIGHTS = "model.safetensors"
INSIDE_AND_OUT = ("inside.onnx", "outside.onnx")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small network that has seen the digits."""
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    folder = tmp_path_factory.mktemp("trained")
    training.train(Config("convnet", "digits", str(folder / "run"), epochs=1))
    return folder / "run"


def outputs(path: str, x: np.ndarray) -> np.ndarray:
    from fastbn.export.runtime import Session

    session = Session(onnx.load(path), "highest")
    (y,) = session.run({session.input_names[0]: x})
    return y


def test_export_with_normalization_and_softmax(run: Run, trained: Path, capsys: Capture) -> None:
    weights = trained / WEIGHTS
    options = ("--layout", "NHWC", "--mean", "0.3", "--std", "0.5", "--softmax")
    assert run("export", weights, "-o", "m.onnx", *options, "--report", "report.json") == 0
    x = data.load("digits").x_test[:7]
    net, _ = network(weights)
    logits = net.predict((x - np.float32(0.3)) / np.float32(0.5))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        outputs("m.onnx", x), exp / exp.sum(axis=1, keepdims=True), atol=1e-5
    )
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["bn_after"] == 0
    # The weights alone know nothing of it, the file does.
    assert run("validate", "m.onnx", "--weights", weights, "--data", "digits") == 0
    capsys.readouterr()
    assert run("export", weights, "-o", "m.onnx", "--mean", "0.3") == 2
    assert "both --mean and --std" in capsys.readouterr().err
    assert run("export", weights, "-o", "m.onnx", "--mean", "0.3", "--std", "half") == 2
    assert "expected numbers" in capsys.readouterr().err


def test_export_builds_in_what_the_weights_say(run: Run) -> None:
    net = models.build("mlp", input_shape=(8, 8, 1), classes=10, rng=0)
    x = data.load("digits").x_test[:64]
    net((x - 0.25) / 0.5)
    train.save(net, "w.safetensors", input_normalization={"mean": [0.25], "std": [0.5]})
    assert run("export", "w.safetensors", "-o", "inside.onnx") == 0
    assert run("export", "w.safetensors", "-o", "outside.onnx", "--no-normalize") == 0
    images = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    inside, outside = outputs("inside.onnx", images), outputs("outside.onnx", images)
    np.testing.assert_allclose(inside, outputs("outside.onnx", (images - 0.25) / 0.5), atol=1e-4)
    assert np.abs(inside - outside).max() > 0.1
    for path in INSIDE_AND_OUT:
        assert run("validate", path, "--weights", "w.safetensors", "--data", "digits") == 0
    said = [{p.key: p.value for p in onnx.load(path).metadata_props} for path in INSIDE_AND_OUT]
    assert said[0]["input_range"] == "[0.0, 1.0]"
    assert json.loads(said[0]["normalization"]) == {"mean": [0.25], "std": [0.5]}
    assert "input_range" not in said[1]


def test_export_float16(run: Run, trained: Path, capsys: Capture) -> None:
    assert run("export", trained / WEIGHTS, "-o", "m.onnx", "--precision", "float16") == 0
    types = {numpy_helper.to_array(t).dtype for t in onnx.load("m.onnx").graph.initializer}
    assert np.dtype(np.float16) in types
    assert np.dtype(np.float32) not in types
    assert "bytes_after" in capsys.readouterr().out


def test_export_int8(run: Run, trained: Path, capsys: Capture) -> None:
    export = ("export", trained / WEIGHTS, "-o", "m.onnx", "--precision", "int8")
    assert run(*export) == 2
    assert "--calibration" in capsys.readouterr().err
    assert run(*export, "--calibration", "digits", "--report", "report.json") == 0
    assert "QuantizeLinear" in operators("m.onnx")
    narrowing = json.loads(Path("report.json").read_text(encoding="utf-8"))["narrowing"]
    assert narrowing["samples"] == 360  # the test images, not those of the calibration
    assert narrowing["accuracy_before"] > 0.5
    assert abs(narrowing["accuracy_after"] - narrowing["accuracy_before"]) < 0.05
    images = data.load("digits")
    np.savez("own.npz", x=images.x_train[:100], y=images.y_train[:100])
    assert run(*export, "--calibration", "own.npz", "--report", "report.json") == 0
    narrowing = json.loads(Path("report.json").read_text(encoding="utf-8"))["narrowing"]
    assert narrowing["samples"] == 100
    assert narrowing["accuracy_after"] is not None
    np.savez("empty.npz", images=images.x_train[:10])
    capsys.readouterr()
    assert run(*export, "--calibration", "empty.npz") == 2
    assert "has no array 'x'" in capsys.readouterr().err


def test_images_of_a_folder_are_brought_to_the_size_of_the_network(
    run: Run, tmp_path: Path, capsys: Capture
) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 100)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            sides = (20 + number, 24)
            pixels = rng.integers(low, low + 100, (*sides, 3)).astype(np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    training = ("--size", "16", "--epochs", "1", "-o", "run", "-q")
    assert run("train", "convnet", "--data", "images", *training) == 0
    weights = Path("run") / WEIGHTS
    int8 = ("--precision", "int8", "--calibration", "images")
    assert run("export", weights, "-o", "small.onnx", *int8) == 0
    assert run("export", weights, "-o", "m.onnx") == 0
    assert run("validate", "m.onnx", "--weights", weights, "--data", "images") == 0
    assert run("validate", "m.onnx", "--data", "images") == 0
    assert run("export", weights, "-o", "nhwc.onnx", "--layout", "NHWC") == 0
    assert run("validate", "nhwc.onnx", "--data", "images") == 0
    assert "same function" in capsys.readouterr().out


def test_export_never_over_the_weights(run: Run, trained: Path, capsys: Capture) -> None:
    weights = trained / WEIGHTS
    before = weights.read_bytes()
    assert run("export", weights, "-o", weights) == 2
    assert "name another file" in capsys.readouterr().err
    assert weights.read_bytes() == before
