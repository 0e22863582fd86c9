"""Where fastbn keeps what it can get or make again: ``$FASTBN_CACHE`` or ``~/.cache/fastbn``."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder: ``$FASTBN_CACHE`` where it is set, else ``~/.cache/fastbn``."""
    given = os.environ.get("FASTBN_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "fastbn"
