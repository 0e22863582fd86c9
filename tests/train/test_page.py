"""``report.html`` in a real browser: it draws, it fits a phone, it needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from zoo import small

from fastbn import data, models, nn, train
from fastbn.train import page, picture, report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a short run."""
    rng = np.random.default_rng(0)
    x, y = rng.random((240, 8, 8, 3), dtype=np.float32), rng.integers(0, 3, 240)
    names = ("cat", "<b>dog</b>", "</script>")
    images = data.Dataset(x[:160], y[:160], x[160:], y[160:], names, "pictures")
    net = models.convnet((8, 8, 3), 3, channels=(4, 4), hidden=8, rng=0)
    trainer, monitor = train.Trainer(net), train.Monitor()
    trainer.fit(images, 5, 32, validation=0.2, callbacks=[monitor], rng=0)
    known = {
        "model": "convnet",
        "data": "pictures & more",
        "monitor": monitor.records,
        "arguments": {"lr": 0.1, "note": "<i>"},
        "environment": {"isa": "avx2"},
    }
    told = report.describe(trainer, images, known)
    json.dumps(told)
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write(path, told, {**report.examples(net, images), "network": picture.svg(net)})
    return path


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (390, 844)])
def test_in_a_browser(written: Path, browser: Any, width: int, height: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": height}, offline=True)
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else 0)
    tab.goto(written.as_uri())
    tab.wait_for_selector("html[data-drawn=yes]")
    assert wrong == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("canvas").count() == 6
    assert tab.locator(".images img").first.evaluate("i => i.naturalWidth") == 8
    assert tab.locator("h1").inner_text() == "convnet on pictures & more"
    tab.locator("select[data-choice=layers]").select_option(index=2)
    assert tab.locator("canvas").count() == 6
    plot = tab.locator(".chart .u-over").first
    plot.hover(position={"x": 60, "y": 60})  # the legend tells the values there
    assert tab.locator(".u-legend .u-value").first.inner_text().strip() not in {"", "--"}
    assert wrong == []
    tab.close()


def test_ranks(written: Path, tmp_path: Path) -> None:
    record = {
        "rows": [100.0, 100.0, 100.0],
        "seconds": [2.0, 2.0, 2.0],
        "waiting": [1.0, 0.2, 1.0],
        "images_per_second": [100.0, 55.5, 100.0],
    }
    before = {name: values[:2] for name, values in record.items()}  # it went on with one more
    told = {
        "model": "mlp",
        "data": "digits",
        "history": [],
        "ranks": [{"epoch": 1, **before}, {"epoch": 2, **record}],
    }
    page.write(tmp_path / "ranks.html", told)
    text = (tmp_path / "ranks.html").read_text(encoding="utf-8")
    assert "Stragglers, who compute for longer than others: rank 1 (1.80 × the median)." in text
    charts = page.rank_charts(told["ranks"])
    assert charts[0]["series"][2]["values"] == [None, 100.0]
    assert charts[1]["series"][1]["values"] == [10.0, 10.0]


def test_names_are_text(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert "<b>dog" not in text
    assert "&lt;b&gt;dog" in text
    assert text.count("</script>") == 3  # those of the page itself


def test_runs_side_by_side(tmp_path: Path) -> None:
    row = {"epoch": 1, "loss": 0.5, "val_loss": None, "accuracy": 0.5, "lr": 0.1}
    reports = {
        "a": {"history": [row], "arguments": {"seed": 0, "lr": 1.0}, "test_accuracy": 0.5},
        "b": {"history": [row, row], "arguments": {"seed": 1, "lr": 1.0}},
    }
    assert page.differing(reports) == {"seed": [0, 1]}
    page.write_comparison(tmp_path / "page.html", reports)
    assert "seed" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_classification() -> None:
    truth, guesses = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    found = report.classification(truth, guesses, ["a", "b", "c", "d"])
    assert found["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert found["per_class"][2]["recall"] == pytest.approx(2 / 3)
    assert found["per_class"][3] == {
        "class": "d",
        "count": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


def test_the_network_is_drawn() -> None:
    net = models.resnet18((32, 32, 3), 4, width=4, rng=0)
    drawn = picture.svg(net)
    tree = ElementTree.fromstring(drawn)
    titles = [title.text or "" for title in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "input"
    assert titles[1].startswith("conv1: Conv2d(3, 4, 7")
    assert titles[1].endswith(" · BatchNorm · ReLU")
    assert sum("Add()" in title for title in titles) == 8
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in net.modules())
    assert len(titles) == convolutions + 8 + 4  # sums; input, two pools, head
    edges = [path.get("d") for path in tree.iter("{http://www.w3.org/2000/svg}path")]
    assert len(edges) == len(titles) - 1 + 8
    assert sum("C" in (edge or "") for edge in edges) == 8  # around a box


@pytest.mark.parametrize("name", ["resnet20", "inception", "unet", "densenet121"])
def test_networks_of_all_kinds_are_drawn(name: str) -> None:
    net = small(name, (32, 32, 3), 4, rng=0)
    boxes = picture.merged(picture.boxes_of(net))
    shape = boxes[-1].shape
    assert shape == net.output_shape((32, 32, 3))
    assert all(0 <= i < number for number, box in enumerate(boxes) for i in box.inputs)
