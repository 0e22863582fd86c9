"""The page that runs an exported network, in a real browser; and the card beside a file."""

from __future__ import annotations

import functools
import http.server
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from fastbn import data, models, train
from fastbn.cli import app
from fastbn.export import web
from fastbn.files import cache_dir


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows digits, as ``fastbn train`` leaves it."""
    digits = data.load("digits")
    net = models.convnet(digits.input_shape, 10, rng=0)
    trainer = train.Trainer(net)
    trainer.fit(digits, 4, 32, rng=0)
    folder = tmp_path_factory.mktemp("run")
    train.save(net, folder / "model.safetensors", classes=digits.classes)
    told = {"model": "convnet", "data": "digits", "test_accuracy": 0.5, "parameters": 65674}
    rows = [{"class": "a|b", "count": 3, "precision": None, "recall": 0.25, "f1": None}]
    told |= {"per_class": rows, "confusion": np.diag(range(10)).tolist()}
    (folder / "report.json").write_text(json.dumps(told), encoding="utf-8")
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def page(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The page of that network, served."""
    if not all((cache_dir() / f"{web.PACKAGE}-{web.VERSION}" / n).is_file() for n in web.RUNTIME):
        pytest.skip("onnxruntime-web is not kept: python -m fastbn.export.web gets it")
    folder = tmp_path_factory.mktemp("page")
    done = CliRunner().invoke(app, ["export", str(weights), "--web", str(folder), "--offline"])
    assert done.exit_code == 0, done.output
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def opened(browser: Any, address: str, width: int = 1000, height: int = 900) -> Any:
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.wrong = []
    tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.goto(address)
    tab.wait_for_function("document.getElementById('state').textContent === 'Ready.'")
    return tab


@pytest.mark.parametrize(("width", "height"), [(1000, 900), (390, 844)])
def test_a_drawn_zero_is_read(
    page: tuple[Path, str], browser: Any, width: int, height: int
) -> None:
    tab = opened(browser, page[1], width, height)
    box = tab.locator("#board").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for number in range(41):
        angle = 2 * math.pi * number / 40
        x = middle[0] + 0.25 * box["width"] * math.sin(angle)
        tab.mouse.move(x, middle[1] - 0.38 * box["height"] * math.cos(angle))
        if number == 0:
            tab.mouse.down()
    tab.mouse.up()
    first = tab.locator("#top li").first
    assert first.locator(".name").inner_text() == "0"
    assert tab.locator("#top li").count() == 5
    assert re.fullmatch(r"[\d.]+ ms", tab.locator("#took").inner_text())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.get_by_role("button", name="Clear").press("Enter")
    assert not tab.locator("#found").is_visible()
    assert tab.wrong == []
    tab.close()


def test_probabilities_are_onnxruntimes(
    page: tuple[Path, str], browser: Any, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image", reason="images are written by Pillow")
    folder, address = page
    tab = opened(browser, address)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        path = tmp_path / f"{number}.png"
        image.fromarray(pixels).save(path)
        tab.locator("#file").set_input_files(path)
        tab.wait_for_function(f"document.getElementById('state').textContent === '{number}.png'")
        x = (pixels / 255).astype(np.float32)[None, None]
        expected = np.sort(session.run(None, {"input": x})[0][0])[::-1][:5]
        tab.wait_for_function(
            "e => Math.abs(document.querySelector('#top li')?.dataset.probability - e) < 1e-4",
            arg=float(expected[0]),
        )
        shown = [
            float(row.get_attribute("data-probability")) for row in tab.locator("#top li").all()
        ]
        np.testing.assert_allclose(shown, expected, atol=1e-4)
    (tmp_path / "no.png").write_bytes(b"no image")
    tab.locator("#file").set_input_files(tmp_path / "no.png")
    tab.wait_for_function("document.getElementById('state').className === 'wrong'")
    assert "no.png is no image" in tab.locator("#state").inner_text()
    tab.locator("#file").focus()  # reached by the keyboard
    assert tab.evaluate("document.activeElement.id") == "file"
    tab.close()


def test_a_page_without_the_runtime_names_its_address(weights: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(weights), "--web", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    assert f'src="{web.CDN}ort.wasm.min.js"' in text
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"index.html", "web.css", "web.js", "model.onnx"}


def test_names_of_classes_are_no_markup(tmp_path: Path) -> None:
    names = ["</script>", "<b>", '"']
    web.write_page(tmp_path, title="<i>", input_shape=(8, 8, 3), classes=names)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<i>" not in text
    held = text.split('id="model">')[1].split("</script>")[0]
    assert json.loads(held)["classes"] == names


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, classes, message in (
        ((8, 8, 2), ["a"], r"\(H, W, 1 or 3\), got \(8, 8, 2\)"),
        ((7,), ["a"], "needs a network of images"),
        ((8, 8, 1), [], "names of the classes"),
    ):
        with pytest.raises(ValueError, match=message):
            web.write_page(tmp_path / "new", title="", input_shape=shape, classes=classes)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("FASTBN_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"npm, which is not installed: put ort\.wasm"):
        web.runtime()


def test_a_card_tells_how_to_run_the_file(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.onnx"
    done = CliRunner().invoke(app, ["export", str(weights), "-o", str(file), "--card"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in ("# digits.onnx", "`(N, 1, 8, 8)`, NCHW, float32", "| data | digits |", "50.00%",
                 "| a\\|b | 3 | – | 0.250 |", "BatchNorms: 3 in the network, 0 in the file.",
                 "[1, 1, 8, 8]"):  # fmt: skip
        assert part in text
    program = text.split("```python\n")[1].split("```")[0]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"\[\d\]\n", ran.stdout)


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_card_of_a_narrow_file(weights: Path, tmp_path: Path, precision: str) -> None:
    """The proof in float64 is the float32 file's; what narrowing cost is said beside it."""
    file = tmp_path / "narrow.onnx"
    arguments = ["export", str(weights), "-o", str(file), "--precision", precision, "--card"]
    done = CliRunner().invoke(app, [*arguments, "--calibration", "digits"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in ("`(N, 1, 8, 8)`, NCHW, float32", f"| weights and computation | {precision} |",
                 "50.00% of the test samples, by the float32 network.",
                 "In onnxruntime before it was narrowed the file is within",
                 f"In {precision} it differs from float32 by",
                 "of their labels are found"):  # fmt: skip
        assert part in text
    assert "onnxruntime the file is within" not in text


def test_the_cards_javascript_runs(page: tuple[Path, str], browser: Any, weights: Path) -> None:
    folder, address = page
    file = folder / "card.onnx"
    done = CliRunner().invoke(app, ["export", str(weights), "-o", str(file), "--card"])
    assert done.exit_code == 0, done.output
    text = (folder / "README.md").read_text(encoding="utf-8")
    program = text.split("```js\n")[1].split("```")[0]
    tab = opened(browser, address)
    told: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.evaluate(f"(async () => {{ {program} }})()")
    assert told
    assert tab.wrong == []
    tab.close()


def test_command_line_wants_a_place(weights: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(weights)])
    assert done.exit_code == 2
    assert "--output FILE, --web DIR" in done.output
    done = CliRunner().invoke(app, ["export", str(weights), "--web", str(tmp_path), "--card"])
    assert done.exit_code == 2
