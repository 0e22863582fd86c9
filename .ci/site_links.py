"""Follow every link inside the built site, to the file and the place in it, and count them.

mkdocs looks at the links of its Markdown; here are those of the pages, docstrings' and menus' too.
"""

from __future__ import annotations

import ast
import doctest
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


class Page(HTMLParser):
    """The links of a page, and the places that links can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what a tag has of them."""
        found = dict(attrs)
        self.places |= {found.get("id") or "", found.get("name") or ""}
        link = found.get("href") if tag in {"a", "link"} else found.get("src")
        if link and not urlsplit(link).scheme and not link.startswith("//"):
            self.links.append(link)


def broken(site: Path, pages: dict[Path, Page]) -> list[str]:
    """Return the links that lead nowhere."""
    found = []
    for path, page in pages.items():
        for link in page.links:
            file, place = urldefrag(link)
            start = site if file.startswith("/") else path.parent
            target = (start / unquote(urlsplit(file).path).lstrip("/")).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            there = pages.get(target)
            if not target.is_file() or (there is not None and unquote(place) not in there.places):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def examples(sources: Path) -> int:
    """Count the statements of all examples in docstrings; tests/test_package.py runs them."""
    parser, count = doctest.DocTestParser(), 0
    for path in sources.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED):
                count += len(parser.get_examples(ast.get_docstring(node) or ""))
    return count


def main(site: Path, sources: Path) -> int:
    """Print what was found; return the exit code."""
    pages = {path: Page(path) for path in site.resolve().rglob("*.html") if path.name != "404.html"}
    wrong = broken(site.resolve(), pages)
    for line in wrong:
        print(line)
    links = sum(len(page.links) for page in pages.values())
    print(
        f"site: {len(pages)} pages, {links:,} links checked, {len(wrong)} of them broken, "
        f"{examples(sources):,} lines of examples in docstrings"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
