"""Reports: small dataclasses that are also read like dictionaries and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any


class Report:
    """Base of all reports: ``report.bn_before``, ``report["bn_before"]`` and ``dict(report)``."""

    def keys(self) -> Iterator[str]:
        """Names of the fields."""
        assert dataclasses.is_dataclass(self)
        return iter([field.name for field in dataclasses.fields(self)])

    def __getitem__(self, key: str) -> Any:
        if key not in set(self.keys()):
            raise KeyError(key)
        return getattr(self, key)

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain Python values, nested reports too."""
        assert dataclasses.is_dataclass(self) and not isinstance(self, type)
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The same as JSON; a figure that does not exist is null."""
        return json.dumps(_finite(self.as_dict()), indent=2)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value
