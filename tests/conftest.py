"""Fixtures shared by all tests. Functions and tables that tests share are in ``tests/support``."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest

# Programs that tests start import the installed package, not what lies in the working directory:
# a checkout has `fastbn`, but `fastbn.export` is there only when it is installed.
os.environ["PYTHONSAFEPATH"] = "1"

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Every run tries the same examples, so that a failure is a failure for everybody.
hypothesis.settings.register_profile(
    "fastbn", deadline=None, derandomize=True, database=None, print_blob=False
)
hypothesis.settings.load_profile("fastbn")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=4, help="how often training is killed and resumed (long: 50)"
    )
    parser.addoption(
        "--corrupted",
        type=int,
        default=24,
        help="how many corrupted models validation has to notice (long: 100, with real files)",
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2015)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    module = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    module.set_num_threads(1)  # two spinning pools on the same cores slow each other down
    return module


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of the real data sets (``mnist/``, ``cifar10/``)."""
    value = os.environ.get("FASTBN_DATA")
    if not value:
        pytest.skip("FASTBN_DATA does not name a directory with data sets")
    path = Path(value)
    if not path.is_dir():
        pytest.fail(f"FASTBN_DATA={value} is not a directory")
    return path.resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes them for every instruction-set level and every number of threads."""
    if "isa_level" in metafunc.fixturenames:
        runtime = importlib.import_module("fastbn.kernels.runtime")
        metafunc.parametrize("isa_level", runtime.available_isas())
    if "n_threads" in metafunc.fixturenames:
        metafunc.parametrize("n_threads", [1, 2, 3, 4])


@pytest.fixture
def set_threads() -> Iterator[object]:
    """``fastbn.set_num_threads``; what was set before the test is set again behind it."""
    fastbn = importlib.import_module("fastbn")
    before = fastbn.get_num_threads()
    yield fastbn.set_num_threads
    fastbn.set_num_threads(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is opened by playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium to open the page")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()
