"""``fastbn predict``: both kinds of files, images and rows of tables, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fastbn import data, train

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]

pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
Image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
pandas = pytest.importorskip("pandas", reason="tables are read by pandas")

QUICK = ("--quiet", "--seed", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Trained networks of digits, and of two tables, as weights and as ONNX; and files to read."""
    root = tmp_path_factory.mktemp("predict")
    digits = data.load("digits")
    for row in range(3):
        pixels = np.round(np.asarray(digits.x_test[row, ..., 0]) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{row}.png")
    np.save(root / "digits.npy", digits.x_test[:300])

    rng = np.random.default_rng(0)
    x, colour = rng.normal(100.0, 20.0, 400), rng.choice(["red", "green", "blue"], 400)
    table = pandas.DataFrame({"size": x, "colour": colour})
    table["kind"] = np.where((x > 100.0) ^ (colour == "red"), "big", "small")
    table["price"] = 3.0 * x + 50.0 * (colour == "red")
    table.drop(columns="price").to_csv(root / "kinds.csv", index=False)
    table.drop(columns="kind").to_csv(root / "prices.csv", index=False)

    for name, options in (
        ("digits", ("convnet", "--data", "digits", "--normalize", "--epochs", "2")),
        ("kinds", ("mlp", "--data", root / "kinds.csv", "--target", "kind", "--epochs", "20")),
        ("prices", ("mlp", "--data", root / "prices.csv", "--target", "price", "--epochs", "2")),
    ):
        output = root / name
        assert run("train", *options, "-o", output, *QUICK) == 0
        for layout in ("NCHW", "NHWC"):
            target = root / f"{name}-{layout}.onnx"
            weights = output / "model.safetensors"
            assert run("export", weights, "-o", target, "--layout", layout) == 0
    return root


@pytest.fixture(params=["digits/model.safetensors", "digits-NCHW.onnx", "digits-NHWC.onnx"])
def digits_model(request: pytest.FixtureRequest, folder: Path) -> Path:
    return folder / request.param


@pytest.fixture(params=["{}/model.safetensors", "{}-NCHW.onnx"])
def table_model(request: pytest.FixtureRequest, folder: Path) -> Callable[[str], Path]:
    return lambda name: folder / request.param.format(name)


def told(run: Run, capsys: Capture, *arguments: str | Path) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run("predict", *arguments, "--json") == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def probabilities(folder: Path, rows: int) -> Any:
    """What the network says of the first test images, by hand."""
    net = train.load(folder / "digits/model.safetensors")
    _, metadata = train.read(folder / "digits/model.safetensors")
    scale = metadata.input_normalization
    x = (data.load("digits").x_test[:rows] - scale["mean"]) / np.array(scale["std"])
    y = np.exp(net.predict(x.astype(np.float32)).astype(np.float64))
    return y / y.sum(axis=1, keepdims=True)


def test_images(run: Run, capsys: Capture, folder: Path, digits_model: Path) -> None:
    expected = probabilities(folder, 3)
    files = [folder / f"{row}.png" for row in range(3)]
    found = told(run, capsys, digits_model, *files, "--top", "2")
    assert [entry["file"] for entry in found] == [str(file) for file in files]
    for entry, y in zip(found, expected, strict=True):
        best = np.argsort(-y)[:2]
        assert [item["class"] for item in entry["predictions"]] == [str(index) for index in best]
        shares = [item["probability"] for item in entry["predictions"]]
        np.testing.assert_allclose(shares, y[best], atol=2e-3)  # a file's pixels are bytes
    top = told(run, capsys, digits_model, files[0])[0]["predictions"]
    assert len(top) == 5
    everything = told(run, capsys, digits_model, files[0], "--top", "99")[0]["predictions"]
    assert sum(item["probability"] for item in everything) == pytest.approx(1.0)
    assert len(everything) == 10


def test_an_image_of_another_size_and_kind(
    run: Run, capsys: Capture, folder: Path, tmp_path: Path, digits_model: Path
) -> None:
    with Image.open(folder / "0.png") as image:
        image.convert("RGB").resize((40, 40), 0).save(tmp_path / "large.webp", lossless=True)
    known = told(run, capsys, digits_model, folder / "0.png")[0]["predictions"][0]
    found = told(run, capsys, digits_model, tmp_path / "large.webp")[0]["predictions"][0]
    assert found["class"] == known["class"]


def test_arrays(run: Run, capsys: Capture, folder: Path, digits_model: Path) -> None:
    """More rows than go through an ONNX file at a time; the same as bytes, and a single one."""
    expected = probabilities(folder, 300)
    found = told(run, capsys, digits_model, folder / "digits.npy", "--top", "1")
    assert [entry["row"] for entry in found] == list(range(300))
    assert [int(e["predictions"][0]["class"]) for e in found] == expected.argmax(axis=1).tolist()
    x = np.load(folder / "digits.npy")
    np.save("one.npy", np.round(x[0] * 255).astype(np.uint8))
    (entry,) = told(run, capsys, digits_model, "one.npy", "--top", "1")
    assert entry["predictions"][0]["probability"] == pytest.approx(expected[0].max(), abs=2e-3)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rows_of_a_table(
    run: Run, capsys: Capture, folder: Path, table_model: Callable[[str], Path]
) -> None:
    table = pandas.read_csv(folder / "kinds.csv")
    found = told(run, capsys, table_model("kinds"), folder / "kinds.csv", "--top", "1")
    guesses = [entry["predictions"][0]["class"] for entry in found]
    assert np.mean(np.array(guesses) == table["kind"]) > 0.9
    # New rows: other columns in another order, no target, a gap, a word that nobody has seen.
    rows = table.iloc[:4, [1, 0]].assign(more=1.0)
    rows.to_csv("rows.tsv", sep="\t", index=False)
    again = told(run, capsys, table_model("kinds"), "rows.tsv", "--top", "1")
    assert [e["predictions"] for e in again] == [
        [pytest.approx(item) for item in e["predictions"]] for e in found[:4]
    ]
    rows.loc[0, "size"], rows.loc[1, "colour"] = np.nan, "mauve"
    rows.to_parquet("gaps.parquet")
    assert len(told(run, capsys, table_model("kinds"), "gaps.parquet")) == 4


def test_numbers(
    run: Run, capsys: Capture, folder: Path, table_model: Callable[[str], Path]
) -> None:
    found = told(run, capsys, table_model("prices"), folder / "prices.csv")
    assert {len(entry["predictions"]) for entry in found} == {1}
    values = [entry["predictions"][0]["value"] for entry in found]
    prices = pandas.read_csv(folder / "prices.csv")["price"]
    assert np.corrcoef(values, prices)[0, 1] > 0.5
    assert run("predict", table_model("prices"), folder / "prices.csv") == 0
    assert f"{values[0]:.5g}" in capsys.readouterr().out


def test_table_and_csv(run: Run, capsys: Capture, folder: Path, digits_model: Path) -> None:
    (entry,) = told(run, capsys, digits_model, folder / "1.png", "--top", "3")
    assert run("predict", digits_model, folder / "1.png", "--top", "3", "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["file", "row", "class", "probability"]
    assert [row["class"] for row in rows] == [item["class"] for item in entry["predictions"]]
    assert [float(row["probability"]) for row in rows] == [
        item["probability"] for item in entry["predictions"]
    ]
    assert run("predict", digits_model, folder / "1.png", folder / "digits.npy") == 0
    shown = capsys.readouterr().out
    first = entry["predictions"][0]
    assert f"{first['class']} {first['probability']:.1%}" in shown
    assert "row 299" in shown.replace("\n", "")


def test_softmax_inside(run: Run, capsys: Capture, folder: Path) -> None:
    weights = folder / "digits/model.safetensors"
    assert run("export", weights, "-o", "softmax.onnx", "--softmax") == 0
    found = told(run, capsys, "softmax.onnx", folder / "2.png")
    known = told(run, capsys, weights, folder / "2.png")
    for one, other in zip(found[0]["predictions"], known[0]["predictions"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_fixed_batch(run: Run, capsys: Capture, folder: Path) -> None:
    model = onnx.load(folder / "digits-NCHW.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, "one.onnx")
    np.save("few.npy", np.load(folder / "digits.npy")[:3])
    one, free = (
        told(run, capsys, path, "few.npy") for path in ("one.onnx", folder / "digits-NCHW.onnx")
    )
    for entry, other in zip(one, free, strict=True):
        for item, same in zip(entry["predictions"], other["predictions"], strict=True):
            assert item == pytest.approx(same, abs=1e-6)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, "four.onnx")
    assert run("predict", "four.onnx", "few.npy") == 2
    assert "batches of 4" in capsys.readouterr().err


def test_what_is_not_a_number_is_null(run: Run, capsys: Capture, folder: Path) -> None:
    np.save("nan.npy", np.full((1, 8, 8, 1), np.nan))
    shown = told(run, capsys, folder / "digits-NCHW.onnx", "nan.npy", "--top", "1")
    assert shown[0]["predictions"][0]["probability"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx", "{}/0.png"], "nowhere.onnx"),
        (["nowhere.safetensors", "{}/0.png"], "nowhere.safetensors"),
        (["{}/0.png", "{}/0.png"], "0.png: not a whole safetensors file"),
        (["{}/digits-NCHW.onnx", "nowhere.png"], "nowhere.png"),
        (["{}/digits-NCHW.onnx", "{}"], "directory"),
        (["{}/digits-NCHW.onnx", "broken.png"], "broken.png: no image that Pillow knows"),
        (["{}/digits-NCHW.onnx", "broken.npy"], "broken.npy: not a whole .npy file"),
        (["{}/digits-NCHW.onnx", "words.npy"], "words.npy: expected one array of numbers"),
        (["{}/digits-NCHW.onnx", "empty.npy"], "empty.npy: there are no samples"),
        (["{}/digits-NCHW.onnx", "wide.npy"], "wide.npy: samples of shape (9,), the network"),
        (["{}/digits-NCHW.onnx", "{}/kinds.csv"], "trained on a table"),
        (["{}/kinds-NCHW.onnx", "{}/0.png"], "takes rows of 4 numbers"),
        (["{}/kinds/model.safetensors", "other.csv"], "other.csv: The rows have no columns colour"),
        (["{}/kinds/model.safetensors", "wrong.csv"], "wrong.csv: Column size: expected numbers"),
        (["{}/digits-NCHW.onnx", "{}/0.png", "--json", "--csv"], "one of --json and --csv"),
        (["{}/digits-NCHW.onnx", "{}/0.png", "--top", "0"], "--top"),
        (["{}/digits-NCHW.onnx"], "FILE"),
    ],
)
def test_wrong_use_is_one_line(
    run: Run, capsys: Capture, folder: Path, arguments: list[str], message: str
) -> None:
    for name in ("broken.png", "broken.npy"):
        Path(name).write_bytes(b"\x89PNG or so")
    np.save("words.npy", np.array(["a", "b"]))
    np.save("empty.npy", np.zeros((0, 8, 8, 1)))
    np.save("wide.npy", np.zeros((2, 9)))
    Path("other.csv").write_text("size,weight\n1,2\n", encoding="utf-8")
    Path("wrong.csv").write_text("size,colour\nhuge,red\n", encoding="utf-8")
    capsys.readouterr()
    assert run("predict", *(argument.format(folder) for argument in arguments)) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_an_own_network(
    run: Run, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    Path("own_predicted.py").write_text(
        "from fastbn import nn\n"
        "def net(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, rng=0))\n",
        encoding="utf-8",
    )
    own = "own_predicted:net"
    assert run("train", own, "--data", "digits", "--epochs", "1", "-o", "own", "--quiet") == 0
    capsys.readouterr()
    assert run("predict", "own/model.safetensors", folder / "0.png") == 2
    assert "--model package.module:factory" in capsys.readouterr().err
    found = told(run, capsys, "own/model.safetensors", folder / "0.png", "--model", own)
    assert len(found[0]["predictions"]) == 5
