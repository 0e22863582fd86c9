"""Docstrings as the site shows them: roles become code, formulas MathML, which browsers draw.

An extension of griffe takes formulas out of the text before Markdown sees it; `math_in` puts them
back into the page.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:attr|class|func|meth|mod):`~?([^`]+)`")
FORMULA = re.compile(r":math:`([^`]+)`")
BLOCK = re.compile(r"^( *)\.\. math::(.*\n(?:\1 +\S.*\n|\s*\n(?=\1 +\S))*)", re.MULTILINE)
HIDDEN = re.compile(r"<code>math-(inline|block)-([0-9a-f]+)</code>")


def hidden(formula: str, kind: str) -> str:
    """Return code that `math_in` finds."""
    return f"`math-{kind}-{' '.join(formula.split()).encode().hex()}`"


def as_markdown(text: str) -> str:
    """Return a docstring without what Markdown does not know."""

    def block(found: re.Match[str]) -> str:
        return f"\n{found[1]}{hidden(textwrap.dedent(found[2]), 'block')}\n\n"

    text = BLOCK.sub(block, text + "\n").rstrip()
    text = FORMULA.sub(lambda found: hidden(found[1], "inline"), text)
    return ROLE.sub(r"`\1`", text)


def math_in(html: str) -> str:
    """Return a page with its formulas."""
    return HIDDEN.sub(lambda m: convert(bytes.fromhex(m[2]).decode(), display=m[1]), html)


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
