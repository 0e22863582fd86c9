"""Every test here stands for public reports, which its mark names; ``docs/reports.md`` lists them.

The mark says how many BatchNorms there are before and after, and the ``fold`` fixture holds a
fold to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import pytest
from reported import require_equal

from fastbn.export import FoldReport, fold_batch_norm

Folder = Callable[..., tuple[onnx.ModelProto, FoldReport]]


@pytest.fixture
def fold(request: pytest.FixtureRequest) -> Folder:
    """Fold a model, and require what the test's mark says of it."""
    mark = request.node.get_closest_marker("report")
    before, left = (int(part) for part in mark.kwargs["bn"].split(" → "))

    def folded(
        model: onnx.ModelProto,
        *,
        reason: str = "",
        shape: Sequence[int] | None = None,
        **options: Any,
    ) -> tuple[onnx.ModelProto, FoldReport]:
        original = model.SerializeToString()
        result, report = fold_batch_norm(model, **options)
        assert model.SerializeToString() == original
        assert (report.bn_before, report.bn_left) == (before, left), report.nodes
        assert report.affine_left <= 0
        kept = [entry for entry in report.nodes if entry.action == "kept"]
        assert all(entry.reason for entry in kept)
        assert not reason or any(reason in entry.reason for entry in kept), kept
        if report.changed:
            assert report.verification is not None
            assert report.verification.agree
            onnx.checker.check_model(result, full_check=True)
            require_equal(model, result, shape)
        return result, report

    return folded
