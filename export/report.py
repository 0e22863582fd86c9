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
        return iter([field.name for field in fields if not field.name.startswith("_")])

    def __getitem__(self, key: str) -> Any:
        if key not in set(self.keys()):
            raise KeyError(key)
        return getattr(self, key)

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain Python values, nested reports too."""
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return _public(values)

    def to_json(self) -> str:
        """Return the same as JSON; a figure that does not exist is null."""
        return json.dumps(_finite(self.as_dict()), indent=2)


def _public(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out, at every level, what begins with an underscore."""
    return {
        key: _public(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if not key.startswith("_")
    }


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
class OutputReport(Report):
    """One output of a comparison: the group of inputs that came nearest to the tolerance.

    Attributes
    ----------
    name : str
    error, original : float
        Largest distance from float64, of the second and of the first model in onnxruntime.
    tolerance : float
        What the error may be: what rounding explains, but never more than the limit.
    rounding, limit : float
    size : float
        Largest number of the output.
    between, rms : float
        Largest difference and root mean square between the two models in onnxruntime.
    cannot_tell : str
        Why the output would be the same whatever the model did; empty if it would not.
    """

    name: str
    error: float = 0.0
    original: float = 0.0
    rounding: float = 0.0
    limit: float = 0.0
    size: float = 0.0
    between: float = 0.0
    rms: float = 0.0
    cannot_tell: str = ""
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        self.tolerance = min(self.rounding, self.limit)

    def closeness(self) -> float:
        """Error in units of the tolerance."""
        if self.error == float("inf"):  # whatever the tolerance
            return self.error
        if self.tolerance > 0:
            return self.error / self.tolerance
        return float("inf") if self.error > 0 else 0.0


@dataclass(slots=True)
class ValidationReport(Report):
    """What a comparison found.

    Figures without a list are those of the output that came nearest to its tolerance, or crossed
    it farthest.

    Attributes
    ----------
    agree : bool
        Whether every output stayed within its tolerance, and some output could tell.
    verdict : str
        ``"agree"``, ``"differ"``, ``"not proven"`` (the original itself is too far from float64,
        or no output could tell) or ``"not compared"``.
    output : str
        Its name.
    max_abs_f64, max_rel_f64 : float
        Worst difference of onnxruntime (the last model given, both levels) from the float64
        truth of the first model; ``rel`` is divided by the largest number of that output.
    original_abs_f64 : float
        Worst difference of the first model in onnxruntime from float64.
    tolerance : float
        What the difference may be.
    max_abs_ort, max_rel_ort, rms_ort : float
        Worst difference, and root mean square, between the two models in onnxruntime at equal
        level; for one model, between its lowest and its highest level.
    argmax_agreement : float
        Share of rows whose largest entry along the last axis is the same, in onnxruntime at the
        highest level and in float64.
    snr : float or None
        Signal to noise in dB, of a narrow file on given data; of its worst output.
    samples : int
        Number of inputs tried.
    against : str
        ``"float64"``, or ``"onnxruntime"`` where the graph cannot be evaluated in float64.
    noticed : int
        Changed copies of the second model that the same comparison told from it.
    unproven : list of str
        Outputs that could not tell, and tensors whose change nothing noticed.
    notes : list of str
        What could not be done, and why.
    outputs : list of OutputReport

    Examples
    --------
    >>> ValidationReport().verdict
    'not compared'
    """

    agree: bool = True
    verdict: str = "not compared"
    output: str = ""
    max_abs_f64: float = 0.0
    max_rel_f64: float = 0.0
    original_abs_f64: float = 0.0
    tolerance: float = 0.0
    max_abs_ort: float = 0.0
    max_rel_ort: float = 0.0
    rms_ort: float = 0.0
    argmax_agreement: float = 1.0
    snr: float | None = None
    samples: int = 0
    against: str = "float64"
    noticed: int = 0
    unproven: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outputs: list[OutputReport] = field(default_factory=list)
    _by_distance: bool = field(default=False, repr=False)

    def fail(self, verdict: str, note: str) -> None:
        """Take agreement back for another reason than a distance."""
        self.agree = False
        if self.verdict != "differ":
            self.verdict = verdict
        if note and note not in self.notes:
            self.notes.append(note)

    def settle(self, slack: float = 1.0) -> bool:
        """Take the verdict from the outputs, and the figures of the one nearest to its tolerance.

        Parameters
        ----------
        slack : float
            By how much rounding may be more than usual.

        Returns
        -------
        agree : bool
        """
        broken = self.verdict in ("differ", "not proven") and not self._by_distance
        for output in self.outputs:
            output.tolerance = min(slack * output.rounding, output.limit)
        worst = max(self.outputs, key=OutputReport.closeness, default=OutputReport(""))
        self.output = worst.name
        self.max_abs_f64, self.original_abs_f64 = worst.error, worst.original
        self.tolerance = worst.tolerance
        self.max_abs_ort, self.rms_ort = worst.between, worst.rms
        self.max_rel_f64 = ratio(worst.error, worst.size)
        self.max_rel_ort = ratio(worst.between, worst.size)
        far = [o for o in self.outputs if not o.error <= o.tolerance]
        if broken:
            if any(not o.error <= slack * o.rounding for o in far):
                self.verdict = "differ"
            return False
        self._by_distance = bool(far)
        self.agree = not far
        self.verdict = "agree"
        if far:
            differ = any(not o.error <= slack * o.rounding for o in far)
            self.verdict = "differ" if differ else "not proven"
        return self.agree


def ratio(error: float, size: float) -> float:
    """Error relative to a size; infinite where there is none."""
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))
