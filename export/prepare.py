"""What a user may decide about a model before it is folded: sizes, defaults, functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import inliner

from fastbn.export.errors import ModelError, one_line


def prepared(
    model: onnx.ModelProto,
    *,
    inline: bool = False,
    overridable_as_constant: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Return a model with what the user decided, itself where that is nothing.

    Parameters
    ----------
    model : onnx.ModelProto
        Checked.
    inline : bool
        Whether the bodies of its functions stand where they are called.
    overridable_as_constant : bool
        Whether inputs that have a default value are no inputs any more.
    input_shapes : mapping of str to sequence of int, optional
        Sizes of inputs, of as many axes as they have.

    Raises
    ------
    ModelError
        If an input does not exist, or cannot have these sizes.
    """
    if inline and model.functions:
        model = inliner.inline_local_functions(model)
    overridable_as_constant &= model.ir_version >= 4  # before, they are constants anyway
    if not overridable_as_constant and not input_shapes:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if overridable_as_constant:
        defaults = {tensor.name for tensor in result.graph.initializer}
        kept = [value for value in result.graph.input if value.name not in defaults]
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        del result.graph.input[:]
        result.graph.input.extend(copies)
    for name, sizes in (input_shapes or {}).items():
        _set_sizes(result, name, sizes)
    if input_shapes:
        del result.graph.value_info[:]  # they were of other sizes
        try:
            onnx.shape_inference.infer_shapes(result, strict_mode=True)
        except onnx.shape_inference.InferenceError as error:
            raise ModelError(f"these sizes of inputs do not fit: {one_line(error)}") from None
    return result


def _set_sizes(model: onnx.ModelProto, name: str, sizes: Sequence[int]) -> None:
    inputs = {value.name: value for value in model.graph.input}
    if name not in inputs:
        raise ModelError(f"there is no input {name!r}; there are {sorted(inputs)}")
    shape = inputs[name].type.tensor_type.shape
    known = [d.dim_value if d.HasField("dim_value") else 0 for d in shape.dim]
    if len(sizes) != len(known) or any(
        n < 1 or (m > 0 and n != m) for n, m in zip(sizes, known, strict=False)
    ):
        shown = ", ".join(str(n) if n > 0 else "?" for n in known)
        raise ModelError(f"input {name!r} of shape ({shown}) cannot be of sizes {[*sizes]}")
    for dim, size in zip(shape.dim, sizes, strict=True):
        dim.Clear()
        dim.dim_value = size
