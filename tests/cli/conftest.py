from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastbn import cli


@pytest.fixture(scope="session")
def run() -> Callable[..., int]:
    """Run a command in this process; return its exit code."""

    def call(*arguments: str | Path) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return call
