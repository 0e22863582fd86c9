"""The errors this package raises; all are ``ValueError`` and fit on one line."""

from __future__ import annotations

from fastbn.budgets import BudgetError


class ModelError(ValueError):
    """An ONNX file that cannot be read, is not valid, or points outside its folder.

    Examples
    --------
    >>> import onnx
    >>> from fastbn import export
    >>> export.fold_batch_norm(onnx.ModelProto())
    Traceback (most recent call last):
        ...
    fastbn.export.errors.ModelError: model: holds no graph; is it an ONNX model?
    """


class DemandError(ModelError, BudgetError):
    """A model that asks for more memory, nodes or turns of loops than its size justifies."""


class MismatchError(ValueError):
    """Two models that should be the same function are not; nothing was written.

    Examples
    --------
    >>> issubclass(MismatchError, ValueError)
    True
    """


def root_cause(error: BaseException) -> str:
    """First line of the error that all the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def one_line(error: BaseException, limit: int = 300) -> str:
    """First informative line of an error's text, shortened to ``limit`` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
