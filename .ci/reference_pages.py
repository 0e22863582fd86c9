"""Hook of mkdocs: a page of the reference lists every public name of its module.

Public is what the package's ``__init__.py`` imports as itself (``from … import Adam as Adam``), or
lists in ``__all__``.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import math_in

SOURCES = Path(os.environ.get("FASTBN_SOURCES", "."))


def public_names(module: str) -> list[str]:
    """Names of a module that users see, in alphabetical order."""
    path = SOURCES / module.replace(".", "/")
    tree = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    ]
    return sorted({*imported, *listed_names(tree)}, key=str.lower)


def listed_names(tree: ast.Module) -> list[str]:
    """Return the names in ``__all__``, if there is one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a section for each name in the place of ``::: fastbn.package``."""

    def listed(found: re.Match[str]) -> str:
        module = found[1]
        if not (SOURCES / module.replace(".", "/")).is_dir():
            return found[0]
        parts = [f"::: {module}\n    options:\n      members: false\n"]
        imports = (SOURCES / module.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
        for name in public_names(module):
            shown = f"{module}.{name}"
            if f"from {shown} import {name} as" in imports:  # its module has the same name
                shown = f"{shown}.{name}"
            parts.append(f"## {name}\n\n::: {shown}\n")
        return "\n".join(parts)

    return re.sub(r"^::: (\S+)$", listed, markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> str:
    """Put formulas back into the text that docstrings had."""
    return math_in(html)
