"""Hook of mkdocs: a page of the reference lists every public name of its module.

Public is what the package's ``__init__.py`` imports as itself (``from … import Adam as Adam``), or
lists in ``__all__``.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

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
        parts += [f"## {name}\n\n::: {module}.{name}\n" for name in public_names(module)]
        return "\n".join(parts)

    return re.sub(r"^::: (\S+)$", listed, markdown, flags=re.MULTILINE)
