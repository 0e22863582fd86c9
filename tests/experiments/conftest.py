from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import fastbn
from fastbn import cli
from fastbn.experiments import NAMES

Told = dict[str, Any]


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Told]]:
    """Run an experiment as ``fastbn reproduce NAME --quick`` does; return its result.json."""
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    pytest.importorskip("matplotlib", reason="plots need matplotlib")

    before = fastbn.get_num_threads()
    fastbn.set_num_threads(1)  # the networks are so small that more do not help

    @lru_cache
    def run(name: str) -> Told:
        folder = tmp_path_factory.mktemp("experiments") / name
        arguments = ["reproduce", name, "--quick", "--seeds", "1", "--quiet", "-o", str(folder)]
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 0
        told: Told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        check_files(folder, told)
        return told

    yield run
    fastbn.set_num_threads(before)


def check_files(folder: Path, told: Told) -> None:
    """Everything that is promised is there, and the pages have all of it."""
    assert told["experiment"] in NAMES
    assert told["claims"]
    assert told["plots"]
    page = (folder / "index.html").read_text(encoding="utf-8")
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in told["plots"].values():
        assert (folder / file).stat().st_size > 1000
        assert f'src="{file}"' in page
        assert f"({file})" in text
    for claim in told["claims"]:
        assert claim["verdict"] in {"holds", "partly", "does not"}
        assert claim["figures"]
        assert claim["claim"] in text
        assert claim["plot"] is None or claim["plot"] in told["plots"]


@pytest.fixture
def verdicts(quick: Callable[[str], Told]) -> Callable[[str], dict[str, str]]:
    """Verdicts of an experiment by the texts of its claims."""
    return lambda name: {claim["claim"]: claim["verdict"] for claim in quick(name)["claims"]}
