"""Fold a model and prove the result."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn.export.errors import MismatchError, ModelError, one_line, root_cause
from fastbn.export.fold.engine import STEPS, Boldness, fold_in_place
from fastbn.export.fold.report import FoldReport
from fastbn.export.io import Source, is_too_large, read_model, write_model
from fastbn.export.validate import compare, require_agreement
from fastbn.files import require_output, scratch_folder


def fold_batch_norm(
    model_or_path: Source,
    *,
    duplicate_shared: bool = False,
    verify: bool = True,
    check_data: Mapping[str, NDArray[Any]] | None = None,
    allow_slower: bool = False,
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

    Returns
    -------
    model : onnx.ModelProto
    report : FoldReport

    Raises
    ------
    ModelError
        If the model is broken or cannot be run for verification.
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
    original = read_model(model_or_path)
    if not verify:
        return fold_once(original, STEPS[0], duplicate_shared, allow_slower)
    failure: MismatchError | None = None
    for boldness in STEPS:
        folded, report = fold_once(original, boldness, duplicate_shared, allow_slower)
        check_fold(original, folded)
        report.verification = compare(original, folded, data=check_data)
        try:
            settle(report, boldness)
        except MismatchError as error:
            failure = failure or error
            continue
        return folded, report
    assert failure is not None
    raise failure


def settle(report: FoldReport, boldness: Boldness) -> None:
    """Take the figures of the verification into the report, or raise :class:`MismatchError`."""
    assert report.verification is not None
    report.max_abs_f64 = report.verification.max_abs_f64
    if boldness is not STEPS[0]:
        report.notes.append(f"folded {boldness.name}, because rounding suffered otherwise")
    require_agreement(report.verification, "the folded model")


def fold_once(
    original: onnx.ModelProto,
    boldness: Boldness,
    duplicate_shared: bool,
    allow_slower: bool = False,
) -> tuple[onnx.ModelProto, FoldReport]:
    """Fold without verification; weights are copied only where asked or where it costs nothing."""
    model, report = fold_loaded(
        lambda: ir.from_proto(original), boldness, duplicate_shared, allow_slower
    )
    try:
        return ir.to_proto(model), report
    except (ir.serde.SerdeError, UnicodeError) as error:
        raise ModelError(f"the model cannot be represented: {root_cause(error)}") from error


def fold_loaded(
    load: Callable[[], ir.Model],
    boldness: Boldness,
    duplicate_shared: bool,
    allow_slower: bool = False,
) -> tuple[ir.Model, FoldReport]:
    """Fold what ``load`` gives; it is called again if shared weights turn out to be copied."""
    not_copied: frozenset[str] = frozenset()
    while True:
        try:
            model = load()
            report, copied = fold_in_place(model, boldness, not_copied, allow_slower=allow_slower)
        except (ir.serde.SerdeError, UnicodeError) as error:
            raise ModelError(f"the model cannot be represented: {root_cause(error)}") from error
        if duplicate_shared or not copied or not_copied >= copied.keys():
            return model, report
        not_copied |= copied.keys()


def fold_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    duplicate_shared: bool = False,
    verify: bool = True,
    check_data: Mapping[str, NDArray[Any]] | None = None,
    allow_slower: bool = False,
    overwrite_input: bool = False,
) -> FoldReport:
    """Fold a file into another one, which is written atomically and only if all is proven.

    Parameters
    ----------
    source, target : path
    duplicate_shared, verify, check_data, allow_slower
        As for :func:`fold_batch_norm`.
    overwrite_input : bool
        Whether the target may be the source itself.

    Raises
    ------
    ModelError, MismatchError
        As :func:`fold_batch_norm`; the target is then left as it was.
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
        )
    folded, report = fold_batch_norm(
        source,
        duplicate_shared=duplicate_shared,
        verify=verify,
        check_data=check_data,
        allow_slower=allow_slower,
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
) -> FoldReport:
    """Fold a file whose weights do not fit into one protobuf message; they stay external.

    The weights are mapped, not read. The new ones go into a file beside the target, under a name
    of its own, so that an older target stays whole until the new model takes its place. The
    comparison is with the original in onnxruntime: float64 would take twice the memory.
    """
    original = read_model(source, load_external_data=False)
    failure: MismatchError | None = None
    for boldness in STEPS:
        model, report = fold_loaded(
            lambda: _mapped(original, source.parent), boldness, duplicate_shared, allow_slower
        )
        with scratch_folder(target.parent) as folder:
            draft = folder / target.name
            data = f"{target.name}.{secrets.token_hex(4)}.data"
            ir.save(model, draft, external_data=data)
            if verify:
                folded = read_model(draft, load_external_data=False)
                paths = (source, draft)
                report.verification = compare(original, folded, data=check_data, paths=paths)
                try:
                    settle(report, boldness)
                except MismatchError as error:
                    failure = failure or error
                    continue
            if (folder / data).exists():
                (folder / data).replace(target.parent / data)
            draft.replace(target)
            return report
    assert failure is not None
    raise failure


def _mapped(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """Model whose external weights are mapped from files in a folder."""
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, folder)
    return model


def check_fold(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Check the folded model as thoroughly as the original stands it."""
    try:
        onnx.checker.check_model(original, full_check=True)
        thorough = True
    except Exception:  # shape inference raises several classes
        thorough = False
    try:
        onnx.checker.check_model(folded, full_check=thorough)
    except Exception as error:
        raise ModelError(f"the folded model is not valid: {one_line(error)}") from error
