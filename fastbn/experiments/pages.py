"""What people read: claim and finding side by side, as ``index.html`` and as ``README.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastbn.experiments.experiment import Spread
from fastbn.files import atomic

Told = Mapping[str, Any]
HEADS = ("source", "claim", "finding", "figures")
MARKS = {"holds": "✔", "partly": "◐", "does not": "✘"}
STYLE = """
table.claims { width: 100%; table-layout: fixed; }
table.claims th:nth-child(1) { width: 17%; }
table.claims th:nth-child(2) { width: 31%; }
table.claims th:nth-child(3) { width: 7rem; }
table.claims td { vertical-align: top; }
td.holds, td.partly, td.not { white-space: nowrap; font-weight: 600; }
td.holds { background: rgb(0 114 178 / 0.18); }
td.partly { background: rgb(230 159 0 / 0.2); }
td.not { background: rgb(213 94 0 / 0.25); }
figure img { max-width: 100%; width: auto; image-rendering: auto; background: #fff; }
@media (max-width: 700px) {
  table.claims thead { display: none; }
  table.claims, table.claims tbody, table.claims tr, table.claims td { display: block; }
  table.claims tr { border-bottom: 2px solid var(--soft); padding: 0.5rem 0; }
  table.claims td { border: 0; }
}
"""


def write(folder: Path, told: Told) -> None:
    """Write the two pages of an experiment.

    Parameters
    ----------
    folder : Path
        Where its plots are.
    told : mapping
        What `fastbn.experiments.reproduce` returns.
    """
    _write(folder / "README.md", markdown(told))
    _write(folder / "index.html", html(told))


def write_index(folder: Path, told: Sequence[Told], missing: Mapping[str, str]) -> None:
    """Write the two pages of all claims; experiments lie in folders of their names."""
    title = "What the literature claims about batch normalisation"
    parts, lines = [f"<h1>{title}</h1>"], [f"# {title}", ""]
    for each in told:
        name = each["experiment"]
        link = f'<a href="{name}/index.html">{escape(each["title"])}</a>'
        parts += [f"<h2>{link}</h2>", _claims_html(each, f"{name}/")]
        lines += [f"## [{each['title']}]({name}/README.md)", "", *_claims_md(each, f"{name}/"), ""]
    if missing:
        parts += ["<h2>Did not run</h2>", _table(("experiment", "why"), missing.items())]
        lines += ["## Did not run", "", *_table_md(("experiment", "why"), missing.items())]
    _write(folder / "README.md", "\n".join(lines) + "\n")
    _write(folder / "index.html", _page(title, parts))


def html(told: Told) -> str:
    """Return the page of an experiment."""
    pictures = (
        f'<figure><img src="{escape(file)}" alt="{escape(name)}"></figure>'
        for name, file in told["plots"].items()
    )
    settings = [(name, _text(value)) for name, value in told["settings"].items()]
    parts = [
        f"<h1>{escape(told['title'])}</h1>",
        *(f"<p>{escape(paragraph)}</p>" for paragraph in _paragraphs(told["text"])),
        f"<p><code>{escape(told['command'])}</code></p>",
        f"<p>{escape(_how(told))}</p>",
        "<h2>Claim and finding</h2>",
        _claims_html(told),
        "<h2>Plots</h2>" if told["plots"] else "",
        *pictures,
        "<h2>Numbers</h2>",
        *(_table(heads, rows) for heads, rows in _numbers(told)),
        "<h2>Settings</h2>",
        _table(("setting", "value"), settings),
    ]
    return _page(told["title"], parts)


def markdown(told: Told) -> str:
    """Return the same in Markdown."""
    lines = [f"# {told['title']}", ""]
    for paragraph in _paragraphs(told["text"]):
        lines += [paragraph, ""]
    lines += ["```", told["command"], "```", "", _how(told), ""]
    lines += ["## Claim and finding", "", *_claims_md(told), ""]
    if told["plots"]:
        lines += ["## Plots", ""]
        for name, file in told["plots"].items():
            lines += [f"![{name}]({file})", ""]
    lines += ["## Numbers", ""]
    for heads, rows in _numbers(told):
        lines += [*_table_md(heads, rows), ""]
    settings = [(f"`{name}`", _text(value)) for name, value in told["settings"].items()]
    lines += ["## Settings", "", *_table_md(("setting", "value"), settings)]
    return "\n".join(lines) + "\n"


def _how(told: Told) -> str:
    seeds = len(told["seeds"])
    count = "One seed" if seeds == 1 else f"Mean ± standard deviation over {seeds} seeds"
    quick = " Quick settings: for tests, not for conclusions." if told["quick"] else ""
    return f"{count}; {told['seconds']:,.0f} seconds of measuring.{quick}"


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n")]


def _numbers(told: Told) -> Iterable[tuple[Sequence[str], list[Sequence[str]]]]:
    """Yield a table for all networks that measured the same numbers."""
    tables: dict[tuple[str, ...], list[Sequence[str]]] = {}
    for network, numbers in told["numbers"].items():
        cells = [_number(number) for number in numbers.values()]
        tables.setdefault(tuple(numbers), []).append((network, *cells))
    for keys, rows in tables.items():
        if keys:
            yield ("network", *(key.replace("_", " ") for key in keys)), rows


def _number(number: Mapping[str, Any]) -> str:
    values = [float("nan") if value is None else value for value in number["values"]]
    return f"{Spread(values):.4g}"


# --- tables ---------------------------------------------------------------------------------


def _claims_html(told: Told, below: str = "") -> str:
    rows = []
    for claim in told["claims"]:
        word = claim["verdict"]
        finding = f"{MARKS[word]} {word}"
        plot = told["plots"].get(claim["plot"] or "")
        link = f' <a href="{below}{escape(plot)}">plot</a>' if plot else ""
        rows.append(
            f"<tr><td>{escape(claim['source'])}</td><td>{escape(claim['claim'])}</td>"
            f'<td class="{word.split()[-1]}">{finding}</td>'
            f"<td>{escape(claim['figures'])}{link}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in HEADS)
    body = "".join(rows)
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _claims_md(told: Told, below: str = "") -> list[str]:
    rows = []
    for claim in told["claims"]:
        plot = told["plots"].get(claim["plot"] or "")
        link = f" ([plot]({below}{plot}))" if plot else ""
        verdict = f"{MARKS[claim['verdict']]} {claim['verdict']}"
        rows.append((claim["source"], claim["claim"], verdict, claim["figures"] + link))
    return _table_md(HEADS, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _table_md(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _text(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


# --- files ----------------------------------------------------------------------------------


def _page(title: str, parts: Iterable[str]) -> str:
    css = (files("fastbn.train") / "assets" / "report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{css}{STYLE}</style></head>
<body>
{"".join(parts)}
</body></html>
"""


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
