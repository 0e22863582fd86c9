"""Reports: small dataclasses that are also read like dictionaries and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class ValidationReport(Report):
    """What a comparison found.

    Attributes
    ----------
    agree : bool
        Whether every group of samples stayed within its tolerance.
    max_abs_f64, max_rel_f64 : float
        Worst difference of onnxruntime (the last model given, both levels) from the float64
        truth of the first model; ``rel`` is divided by max|f64| of the same group.
    max_abs_ort, max_rel_ort, rms_ort : float
        Worst difference, and root mean square, between the two models in onnxruntime at equal
        level; for one model, between its lowest and its highest level.
    original_abs_f64 : float
        Worst difference of the first model in onnxruntime from float64.
    tolerance : float
        Tolerance of the group that came nearest to it, or crossed it farthest.
    argmax_agreement : float
        Share of rows whose largest entry along the last axis is the same, in onnxruntime at the
        highest level and in float64.
    samples : int
        Number of inputs tried.
    against : str
        ``"float64"``, or ``"onnxruntime"`` where the graph cannot be evaluated in float64.
    notes : list of str
        What could not be done, and why.
    """

    agree: bool = True
    max_abs_f64: float = 0.0
    max_rel_f64: float = 0.0
    max_abs_ort: float = 0.0
    max_rel_ort: float = 0.0
    rms_ort: float = 0.0
    original_abs_f64: float = 0.0
    tolerance: float = 0.0
    argmax_agreement: float = 1.0
    samples: int = 0
    against: str = "float64"
    notes: list[str] = field(default_factory=list)
