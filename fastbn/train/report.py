"""Reports as JSON files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from fastbn.files import atomic


def write_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write a report as JSON, in one step; what is not finite becomes null.

    Parameters
    ----------
    path : path
        The file.
    report : mapping
        Values of JSON's types.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(_finite(report), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
