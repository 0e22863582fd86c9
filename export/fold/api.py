"""Fold a model and prove the result."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn.export.errors import ModelError
from fastbn.export.fold.attempts import (
    POWER_SECONDS,
    Foldable,
    Folded,
    boldest_proven,
)
from fastbn.export.fold.engine import STEPS, Boldness
from fastbn.export.fold.report import FoldReport
from fastbn.export.io import Source, is_too_large, read_model, write_model
from fastbn.export.prepare import prepared
from fastbn.export.truth import Truth
from fastbn.files import require_output, scratch_folder


def fold_batch_norm(
    model_or_path: Source,
    *,
    duplicate_shared: bool = False,
    verify: bool = True,
    check_data: Mapping[str, NDArray[Any]] | None = None,
    allow_slower: bool = False,
    allow_negative_scales: bool = False,
    max_seconds: float = POWER_SECONDS,
    inline: bool = False,
    overridable_as_constant: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[onnx.ModelProto, FoldReport]:
    """Return the same function with as few BatchNormalization nodes as can be.

    Each inference BatchNorm is an affine per channel. It is worked out in float64, moved through
    the graph to where a convolution, matrix product, constant or another BatchNorm absorbs it,
    and rounded once. Names of inputs, outputs and surviving nodes stay.

    Parameters
    ----------
    model_or_path : path or onnx.ModelProto
        Any ONNX model, opset 7 or later; it is not changed.
    duplicate_shared : bool
        Whether a weight that several nodes share may be copied, so that each can be folded.
    verify : bool
        Whether to compare the result with the float64 truth of the original. If rounding
        suffers, less is folded; if that does not help, nothing is returned.
    check_data : mapping of str to array, optional
        Inputs to compare on, besides random and adversarial ones.
    allow_slower : bool
        Whether to fold even where onnxruntime then takes longer: a BatchNorm of scales of both
        signs next to a Relu becomes Max and Min, two passes over memory.
    allow_negative_scales : bool
        Whether a negative γ may go into the scales of a quantised weight. ONNX and onnxruntime
        take scales below zero; compilers for other devices may not.
    max_seconds : float
        How long to change new weights one by one, to show that the comparison would notice.
    inline : bool
        Whether the bodies of the model's functions stand where they are called, so that
        BatchNorms inside them can be folded.
    overridable_as_constant : bool
        Whether initializers that a caller may replace, since they are inputs as well, are
        constants; the result has these inputs no more.
    input_shapes : mapping of str to sequence of int, optional
        Sizes of inputs that the model leaves open; the result has them.

    Returns
    -------
    model : onnx.ModelProto
    report : FoldReport

    Raises
    ------
    ModelError
        If the model is broken, has no such inputs, or cannot be run for verification.
    MismatchError
        If the folded model is not the same function within the tolerance.

    Examples
    --------
    >>> from onnx import parser
    >>> model = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["" : 18]>
    ...     net (float[N, 2] x) => (float[N, 2] y)
    ...     <float[2] one = {1, 1}, float[2] zero = {0, 0}, float[2, 2] w = {1, 2, 3, 4}>
    ...     { h = Gemm(x, w)  y = BatchNormalization(h, one, zero, zero, one) }
    ... ''')
    >>> folded, report = fold_batch_norm(model)
    >>> [node.op_type for node in folded.graph.node], report.bn_left
    (['Gemm'], 0)
    """
    original = prepared(
        read_model(model_or_path),
        inline=inline,
        overridable_as_constant=overridable_as_constant,
        input_shapes=input_shapes,
    )
    source = Foldable(
        original,
        duplicate_shared=duplicate_shared,
        allow_slower=allow_slower,
        allow_negative_scales=allow_negative_scales,
    )
    if not verify:
        folded = source.message()
    else:
        folded = boldest_proven(
            source.message, original, lambda: Truth(original, data=check_data), max_seconds
        )
    if folded.model is not original:  # onnx-ir does not know it
        folded.model.training_info.extend(original.training_info)
    return folded.model, folded.report


def fold_once(
    original: onnx.ModelProto,
    boldness: Boldness,
    duplicate_shared: bool,
    allow_slower: bool = False,
    sample_norms: bool = False,
) -> tuple[onnx.ModelProto, FoldReport]:
    """Fold without verification; weights are copied only where asked or where it costs nothing."""
    source = Foldable(
        original,
        duplicate_shared=duplicate_shared,
        allow_slower=allow_slower,
        sample_norms=sample_norms,
    )
    folded = source.message(boldness)
    return folded.model, folded.report


def fold_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    duplicate_shared: bool = False,
    verify: bool = True,
    check_data: Mapping[str, NDArray[Any]] | None = None,
    allow_slower: bool = False,
    allow_negative_scales: bool = False,
    max_seconds: float = POWER_SECONDS,
    overwrite_input: bool = False,
    inline: bool = False,
    overridable_as_constant: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> FoldReport:
    """Fold a file into another one, which is written atomically and only if all is proven.

    Parameters
    ----------
    source, target : path
    duplicate_shared, verify, check_data, allow_slower, allow_negative_scales, max_seconds
    inline, overridable_as_constant, input_shapes
        As for :func:`fold_batch_norm`.
    overwrite_input : bool
        Whether the target may be the source itself.

    Raises
    ------
    ModelError, MismatchError
        As :func:`fold_batch_norm`; the target is then left as it was.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from onnx import parser, save
    >>> model = parser.parse_model('''
    ... <ir_version: 8, opset_import: ["" : 18]>
    ... net (float[N, 2, H, W] x) => (float[N, 2, H, W] z)
    ... <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] one = {1, 1}, float[2] zero = {0, 0}>
    ... { y = Conv (x, w) z = BatchNormalization (y, one, zero, zero, one) }''')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.onnx")
    ...     report = fold_file(Path(folder) / "model.onnx", Path(folder) / "folded.onnx")
    >>> report.nodes_before, report.nodes_after
    (2, 1)
    """
    require_output(target)
    same = Path(target).exists() and Path(source).exists() and Path(target).samefile(source)
    if same and not overwrite_input:
        raise ModelError(f"{target} is the input itself; ask to overwrite it, or name another")
    if is_too_large(source):
        return fold_external(
            Path(source),
            Path(target),
            duplicate_shared=duplicate_shared,
            verify=verify,
            check_data=check_data,
            allow_slower=allow_slower,
            allow_negative_scales=allow_negative_scales,
            inline=inline,
            overridable_as_constant=overridable_as_constant,
            input_shapes=input_shapes,
        )
    folded, report = fold_batch_norm(
        source,
        duplicate_shared=duplicate_shared,
        verify=verify,
        check_data=check_data,
        allow_slower=allow_slower,
        allow_negative_scales=allow_negative_scales,
        max_seconds=max_seconds,
        inline=inline,
        overridable_as_constant=overridable_as_constant,
        input_shapes=input_shapes,
    )
    write_model(folded, target)
    return report


def fold_external(
    source: Path,
    target: Path,
    *,
    duplicate_shared: bool = False,
    verify: bool = True,
    check_data: Mapping[str, NDArray[Any]] | None = None,
    allow_slower: bool = False,
    allow_negative_scales: bool = False,
    inline: bool = False,
    overridable_as_constant: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> FoldReport:
    """Fold a file whose weights do not fit into one protobuf message; they stay external.

    The weights are mapped, not read. The new ones go into a file beside the target, under a name
    of its own, so that an older target stays whole until the new model takes its place. The
    comparison is with the original in onnxruntime: float64 would take twice the memory.
    """
    original = prepared(
        read_model(source, load_external_data=False),
        inline=inline,
        overridable_as_constant=overridable_as_constant,
        input_shapes=input_shapes,
    )
    foldable = Foldable(
        original,
        folder=source.parent,
        duplicate_shared=duplicate_shared,
        allow_slower=allow_slower,
        allow_negative_scales=allow_negative_scales,
    )
    with scratch_folder(target.parent) as folder:
        draft = folder / target.name
        data = f"{target.name}.{secrets.token_hex(4)}.data"

        def fold(boldness: Boldness) -> Folded:
            model, report = foldable.fold(boldness)
            ir.save(model, draft, external_data=data)
            return Folded(read_model(draft, load_external_data=False), report, draft)

        folded = (
            boldest_proven(fold, original, lambda: Truth(original, data=check_data, path=source))
            if verify
            else fold(STEPS[0])
        )
        if (folder / data).exists():
            (folder / data).replace(target.parent / data)
        draft.replace(target)
    return folded.report
