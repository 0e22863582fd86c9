"""docs/errors.md quotes messages that the code still prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^\| (`.*?) \| ", PAGE, flags=re.MULTILINE)
QUOTES = [quote for cell in CELLS for quote in re.findall(r"`([^`]+)`", cell)]


def sources() -> str:
    """All sources, strings that are written in several parts joined."""
    files = [
        path
        for folder in ("fastbn", "models", "export")
        for ending in ("*.py", "*.pyx")
        for path in sorted((ROOT / folder).rglob(ending))
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


TEXT = sources()


def test_the_page_has_messages() -> None:
    assert len(QUOTES) > 30


@pytest.mark.parametrize("quote", QUOTES)
def test_messages_are_those_of_the_code(quote: str) -> None:
    for part in filter(None, (piece.strip() for piece in quote.split("…"))):  # "…" is a value
        assert part in TEXT
