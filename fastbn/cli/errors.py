"""Exit codes, and errors in one line that says what to do about them."""

from __future__ import annotations

import sys

DONE, DIFFERENT, WRONG, NOT_FINITE, LOST, INTERRUPTED = 0, 1, 2, 3, 4, 130


def one_line(error: Exception) -> str:
    """Say an error in one line; what nobody expected is called so.

    >>> one_line(ValueError("first   second"))
    'first second'
    >>> one_line(KeyError("name"))
    "unexpected KeyError: 'name'; please report it with the traceback that --debug prints"
    """
    # Click's own errors; which package defines their class depends on the version of typer.
    message = getattr(error, "format_message", lambda: str(error))()
    text = " ".join(message.split())
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "fastbn"
        return f"{text.rstrip('.')}; see '{command} --help'"
    if isinstance(error, OSError | ValueError | TypeError | ImportError | RuntimeError):
        return text or type(error).__name__
    if isinstance(error, MemoryError):
        return f"out of memory: {text or 'nothing is left'}"
    return (
        f"unexpected {type(error).__name__}: {text}; "
        "please report it with the traceback that --debug prints"
    )


def exit_code(error: Exception) -> int:
    """Tell models that differ (1) from all other errors (2)."""
    errors = sys.modules.get("fastbn.export.errors")  # not loaded: nothing was compared
    return DIFFERENT if errors and isinstance(error, errors.MismatchError) else WRONG
