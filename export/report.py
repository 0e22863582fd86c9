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
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return iter([field.name for field in fields])

    def __getitem__(self, key: str) -> Any:
        if key not in set(self.keys()):
            raise KeyError(key)
        return getattr(self, key)

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain Python values, nested reports too."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def to_json(self) -> str:
        """Return the same as JSON; a figure that does not exist is null."""
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
