"""What is installed: quick to import, typed, complete, and nothing but ``fastbn``."""

from __future__ import annotations

import doctest
import importlib
import importlib.resources
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest

import fastbn

ROOT = Path(__file__).parents[1]
MAPPED = {
    "fastbn": "fastbn",
    "benchmarks": "fastbn.bench",
    "export": "fastbn.export",
    "models": "fastbn.models",
}


def python(program: str) -> str:
    """Run a program outside the checkout; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout


def modules() -> list[str]:
    """Every importable module of the package, compiled ones too."""
    names = ["fastbn"]
    names += [module.name for module in pkgutil.walk_packages(fastbn.__path__, "fastbn.")]
    for name in ("fastbn.bench", "fastbn.export", "fastbn.models"):  # mapped from elsewhere
        package = importlib.import_module(name)
        names += [name]
        names += [module.name for module in pkgutil.walk_packages(package.__path__, f"{name}.")]
    return sorted(set(names))


def test_import_is_quick() -> None:
    program = (
        "import time; start = time.perf_counter(); import fastbn; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(python(program)) for _ in range(5)) < 0.2  # whatever else the machine does


def test_import_is_lean() -> None:
    loaded = set(python("import fastbn, sys; print('\\n'.join(sys.modules))").split())
    heavy = {"onnx", "onnx_ir", "onnxruntime", "matplotlib", "sklearn", "scipy", "rich", "typer"}
    assert "fastbn.kernels.runtime" in loaded
    assert not loaded & heavy


def test_submodules_are_there_when_asked_for() -> None:
    for name in ("data", "export", "functional", "models", "nn", "optim", "reference", "train"):
        printed = python(f"import fastbn; print(fastbn.{name}.__name__)")
        assert printed.strip() == f"fastbn.{name}"
        assert name in dir(fastbn)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fastbn.nothing  # noqa: B018


def test_version_is_the_installed_one() -> None:
    assert fastbn.__version__ == version("fastbn")


def test_it_is_typed() -> None:
    assert importlib.resources.files("fastbn").joinpath("py.typed").is_file()


def test_compiled_modules_have_stubs() -> None:
    """What only other compiled modules see (cdef) needs none."""
    seen_from_python = re.compile(r"^(def [a-z]|class |cdef class |[A-Z_]+ = )", re.MULTILINE)
    kernels = ROOT / "fastbn" / "kernels"
    for source in kernels.rglob("*.pyx"):
        stub = source.with_suffix(".pyi")
        if source.parent != kernels:  # a room
            stub = source.with_name("__init__.pyi")
        if seen_from_python.search(source.read_text(encoding="utf-8")):
            assert stub.is_file(), f"{source.name} has no stub"


def test_every_package_is_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    assert setuptools["package-dir"] == {package: folder for folder, package in MAPPED.items()}
    present = {
        ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
        for folder, package in MAPPED.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(setuptools["packages"]) == sorted(present)


def test_no_extra_but_the_peers_asks_for_torch() -> None:
    asking = [line for line in requires("fastbn") or () if line.startswith("torch")]
    assert asking
    assert all('extra == "peers' in line for line in asking)


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    """Examples in docstrings are executed, by import name."""
    module = importlib.import_module(name)
    assert isinstance(module, ModuleType)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0


# What users call: packages, and modules that packages show as a whole.
PUBLIC = [
    "fastbn",
    "fastbn.data",
    "fastbn.data.augment",
    "fastbn.distributed",
    "fastbn.export",
    "fastbn.functional",
    "fastbn.models",
    "fastbn.nn",
    "fastbn.optim",
    "fastbn.optim.schedules",
    "fastbn.sklearn",
    "fastbn.train",
    "fastbn.train.metrics",
]
# They take several processes: tests/distributed runs them, and the tutorial's program.
NEED_A_JOB = {"Gradients", "Handle", "MPICommunicator"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    """`test_examples` runs them; a backward may be shown where its forward is.

    The functions of `fastbn.reference` are those of `fastbn.functional`, and have its examples.
    """
    module = importlib.import_module(name)
    package = hasattr(module, "__path__")
    shown = {
        key: inspect.getdoc(value) or ""
        for key, value in vars(module).items()
        if callable(value)
        and not key.startswith("_")
        and value.__module__.startswith("fastbn." if package else name)
    }
    assert shown
    without = [
        key
        for key, doc in shown.items()
        if ">>>" not in doc and f"{key}(" not in shown.get(key.removesuffix("_backward"), "")
    ]
    assert set(without) <= NEED_A_JOB
