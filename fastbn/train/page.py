"""``report.html``: one file that shows a run of training, without a network and without others.

Charts are drawn by uPlot, which stands in the file; everything else is plain HTML.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from fastbn.files import atomic
from fastbn.train.report import finite

Report = Mapping[str, Any]
Chart = dict[str, Any]

STRAGGLER = 1.1  # times as long as the median rank
MOST_CLASSES = 50  # of a confusion matrix that is shown
TILES = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "test_mae": "mean absolute error",
    "test_r2": "R²",
    "best_epoch": "best epoch",
    "steps": "steps",
    "seconds": "seconds of training",
    "images_per_second": "samples per second",
    "parameters": "parameters",
}


def write(
    path: str | os.PathLike[str], report: Report, pictures: Mapping[str, Any] | None = None
) -> None:
    """Write the page of a run.

    Parameters
    ----------
    path : path
        The file; an older one is replaced in one step.
    report : mapping
        What `fastbn.train.report.describe` returns.
    pictures : mapping, optional
        What `fastbn.train.report.examples` returns, and "network", a drawing as SVG.
    """
    pictures = pictures or {}
    charts = curves(report["history"])
    choices: dict[str, Any] = {}
    parts = [
        f"<h1>{escape(report['model'])} on {escape(report['data'])}</h1>",
        _tiles(report),
        "<h2>Training</h2>",
        _chart_places(range(len(charts))),
    ]
    if report.get("confusion"):
        parts += ["<h2>Classes of the test set</h2>", *_classes(report)]
    if pictures.get("wrong"):
        parts += ["<h2>Most wrong images</h2>", _figures(pictures["wrong"])]
    if pictures.get("confused"):
        parts += ["<h2>Most confused classes</h2>"]
        for pair in pictures["confused"]:
            parts += [f"<h3>{escape(pair['pair'])}: {pair['count']}</h3>", _figures(pair["images"])]
    if report.get("monitor"):
        choices["layers"], choices["statistics"] = layer_charts(report["monitor"])
        parts += ["<h2>Inside the network</h2>", *_inside(report["monitor"][-1], choices)]
    if report.get("ranks"):
        more = rank_charts(report["ranks"])
        places = _chart_places(range(len(charts), len(charts) + len(more)))
        charts += more
        parts += ["<h2>Ranks</h2>", *_ranks(report["ranks"]), places]
    if pictures.get("network"):
        parts += ["<h2>Network</h2>", f'<div class="scroll">{pictures["network"]}</div>']
    if report.get("layer_times"):
        parts += ["<h2>Time of each layer</h2>", *_times(report["layer_times"])]
    for title, name in (("Arguments", "arguments"), ("Environment", "environment")):
        if report.get(name):
            parts += [f"<h2>{title}</h2>", _values(report[name])]
    title = f"{report['model']} on {report['data']}"
    _write(path, title, parts, {"charts": charts, "choices": choices})


def write_comparison(path: str | os.PathLike[str], reports: Mapping[str, Report]) -> None:
    """Write a page that sets runs side by side.

    Parameters
    ----------
    path : path
        The file.
    reports : mapping
        By the names of the runs.
    """
    charts = []
    for name in ("val_loss", "loss", "val_accuracy", "accuracy", "lr"):
        rows = {
            run: [row.get(name) for row in report["history"]] for run, report in reports.items()
        }
        length = max(map(len, rows.values()))
        series = [
            {"label": run, "values": values + [None] * (length - len(values))}
            for run, values in rows.items()
            if any(value is not None for value in values)
        ]
        if series:
            x = list(range(1, length + 1))
            charts.append(_chart(name.replace("_", " "), x, series, "epoch", "loss" in name))
    names = list(dict.fromkeys(n for report in reports.values() for n in TILES if n in report))
    shown = {TILES[n]: [_text(report.get(n)) for report in reports.values()] for n in names}
    parts = [
        f"<h1>{' and '.join(map(escape, reports))}</h1>",
        _table(["", *reports], [[name, *values] for name, values in shown.items()]),
        "<h2>Training</h2>",
        _chart_places(range(len(charts))),
        "<h2>Arguments that differ</h2>",
        _table(["", *reports], [[name, *map(_text, v)] for name, v in differing(reports).items()]),
    ]
    _write(path, " and ".join(reports), parts, {"charts": charts, "choices": {}})


def differing(reports: Mapping[str, Report]) -> dict[str, list[Any]]:
    """Return the arguments that are not the same in all runs, with the values of each."""
    arguments = [report.get("arguments") or {} for report in reports.values()]
    names = dict.fromkeys(name for each in arguments for name in each)
    values = {name: [each.get(name) for each in arguments] for name in names if name != "output"}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


# --- charts ---------------------------------------------------------------------------------


def curves(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the charts of a history: losses, accuracies, learning rate, metrics."""
    x = [row["epoch"] for row in history]
    known = list(history[0]) if history else []
    metrics = [
        name
        for name in known
        if name.startswith("val_") and name not in {"val_loss", "val_accuracy"}
    ]
    pairs = [("loss", ["loss", "val_loss"]), ("accuracy", ["accuracy", "val_accuracy"])]
    pairs += [("learning rate", ["lr"]), *((name[4:], [name]) for name in metrics)]
    charts = []
    for title, names in pairs:
        series: list[dict[str, Any]] = [
            {"label": "validation" if name.startswith("val_") else "training", "values": values}
            if title != "learning rate"
            else {"label": "learning rate", "values": values}
            for name in names
            if any(values := [row.get(name) for row in history])
        ]
        if series:
            values_of = [v for s in series for v in s["values"]]
            positive = all(v is None or v > 0 for v in values_of)
            charts.append(_chart(title, x, series, "epoch", title == "loss" and positive))
    return charts


def layer_charts(
    records: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, list[Chart]], dict[str, list[Chart]]]:
    """Return the charts of every layer's output, and of every BatchNorm's statistics."""
    x = [record["epoch"] for record in records]
    outputs = {
        f"{path} {told['class']}": [
            _percentiles("output", x, [record["layers"][path]["percentiles"] for record in records])
        ]
        for path, told in records[-1]["layers"].items()
    }
    statistics = {
        path: [
            _percentiles(name, x, [record["statistics"][path][name] for record in records])
            for name in ("running_mean", "running_var")
        ]
        for path in records[-1]["statistics"]
    }
    return outputs, statistics


def _percentiles(title: str, x: list[int], values: list[list[float]]) -> Chart:
    labels = ("15 %", "50 %", "85 %")
    series = [
        {"label": label, "values": list(column)}
        for label, column in zip(labels, zip(*values, strict=True), strict=True)
    ]
    return _chart(title.replace("_", " "), x, series, "epoch", False)


def rank_charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the charts of every rank's speed, and of its share of time in communication."""
    x = [record["epoch"] for record in records]
    ranks = range(len(records[-1]["seconds"]))
    series: dict[str, list[Any]] = {"images per second of computing": [], "% communication": []}
    for rank in ranks:
        mine = [  # a run may have gone on with another number of ranks
            record if rank < len(record["seconds"]) else None for record in records
        ]
        speeds = [None if r is None else r["images_per_second"][rank] for r in mine]
        shares = [
            None if r is None else 100.0 * r["waiting"][rank] / max(r["seconds"][rank], 1e-9)
            for r in mine
        ]
        for name, values in zip(series, (speeds, shares), strict=True):
            series[name].append({"label": f"rank {rank}", "values": values})
    return [_chart(name, x, lines, "epoch", False) for name, lines in series.items()]


def _chart(title: str, x: list[Any], series: list[Any], x_label: str, log: bool) -> Chart:
    return {"title": title, "x": x, "series": series, "x_label": x_label, "log": log}


def _chart_places(numbers: Iterable[int]) -> str:
    places = "".join(f'<div class="chart" data-chart="{number}"></div>' for number in numbers)
    return f'<div class="charts">{places}</div>'


# --- tables and pictures --------------------------------------------------------------------


def _tiles(report: Report) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(_text(report[name]))}</b><span>{label}</span></div>'
        for name, label in TILES.items()
        if report.get(name) is not None
    )
    return f'<div class="tiles">{tiles}</div>'


def _classes(report: Report) -> list[str]:
    """Return the confusion matrix, where it is not too large, and the numbers of every class."""
    parts = []
    names, matrix = report["classes"], report["confusion"]
    if len(names) <= MOST_CLASSES:
        most = max(1, *(max(row) for row in matrix))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = []
        for truth, row in enumerate(matrix):
            cells = "".join(
                f'<td{" class=right" if truth == guess else ""} style="background:rgb(128 128 128'
                f' / {0.75 * (count / most) ** 0.5:.2f})" title="{escape(names[truth])} taken for '
                f'{escape(names[guess])}">{count or ""}</td>'
                for guess, count in enumerate(row)
            )
            rows.append(f"<tr><th>{escape(names[truth])}</th>{cells}</tr>")
        parts.append("<p>A row is a true class, a column what was predicted.</p>")
        parts.append(
            '<div class="scroll"><table class="matrix"><thead><tr><th></th>'
            f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    heads = ["class", "samples", "precision", "recall", "F1"]
    keys = ("class", "count", "precision", "recall", "f1")
    table = [[_text(row[key]) for key in keys] for row in report["per_class"]]
    return [*parts, "<h3>Each class</h3>", _table(heads, table)]


def _figures(images: Iterable[Mapping[str, Any]]) -> str:
    figures = "".join(
        f'<figure><img src="{image["png"]}" alt="{escape(image["truth"])}"><figcaption>'
        f"{escape(image['truth'])} → {escape(image['guess'])}<br>{image['confidence']:.0%}, row "
        f"{image['row']}</figcaption></figure>"
        for image in images
    )
    return f'<div class="images">{figures}</div>'


def _inside(record: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    parts = ["<p>Percentiles of each layer's output, for the first training samples.</p>"]
    parts += [_choice("layers", choices["layers"], 1)]
    if choices["statistics"]:
        parts += ["<p>Running statistics over the channels of each BatchNorm.</p>"]
        parts += [_choice("statistics", choices["statistics"], 2)]
    rows = [
        [path, told["class"], _share(told.get("dead")), _share(told.get("saturated"))]
        for path, told in record["layers"].items()
        if "dead" in told or "saturated" in told
    ]
    if rows:
        parts += ["<h3>Dead and saturated units, at the end</h3>"]
        parts += [_table(["layer", "", "dead", "saturated"], rows)]
    return parts


def _ranks(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each rank did in all epochs, and who was slow."""
    ranks = range(len(records[-1]["seconds"]))
    same = [record for record in records if len(record["seconds"]) == len(ranks)]
    rows, computing = [], []
    for rank in ranks:
        samples, seconds, waiting = (
            sum(record[name][rank] for record in same) for name in ("rows", "seconds", "waiting")
        )
        computing.append(max(seconds - waiting, 1e-9))
        speed = samples / computing[-1]
        rows.append([str(rank), _text(speed), _text(seconds), _share(waiting / max(seconds, 1e-9))])
    heads = ["rank", "samples per second of computing", "seconds", "in communication"]
    usual = sorted(computing)[len(computing) // 2]
    slow = [
        f"rank {rank} ({own / usual:.2f} × the median)"
        for rank, own in enumerate(computing)
        if own > STRAGGLER * usual
    ]
    told = f"Stragglers, who compute for longer than others: {', '.join(slow) or 'none'}."
    return [
        "<p>Who computes for longer is waited for: time in communication is mostly waiting.</p>",
        _table(heads, rows),
        f"<p>{told}</p>",
    ]


def _choice(name: str, options: Mapping[str, Any], places: int) -> str:
    items = "".join(f"<option>{escape(option)}</option>" for option in options)
    charts = f'<div class="chart" data-of="{name}"></div>' * places
    label = escape(f"choose: {name}")
    select = f'<select data-choice="{name}" aria-label="{label}">{items}</select>'
    return f'{select}<div class="charts">{charts}</div>'


def _times(times: Sequence[Mapping[str, Any]]) -> list[str]:
    most = max(row["forward_us"] + row["backward_us"] for row in times) or 1.0
    rows = []
    for row in times:
        bars = "".join(
            f'<span class="bar{kind}" style="width:{9.0 * row[name] / most:.2f}rem"></span>'
            for name, kind in (("forward_us", ""), ("backward_us", " back"))
        )
        rows.append(
            f'<tr><td>{escape(row["layer"])}</td><td class="n">{row["forward_us"]:,.0f}</td>'
            f'<td class="n">{row["backward_us"]:,.0f}</td><td>{bars}</td></tr>'
        )
    return [
        "<p>Microseconds of forward (solid) and backward (hatched) for one batch, every layer by "
        "itself; in training, neighbours run fused and take less.</p>",
        '<div class="scroll"><table><thead><tr><th>layer</th><th class="n">forward</th>'
        '<th class="n">backward</th><th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    ]


def _values(values: Mapping[str, Any]) -> str:
    return _table([], [[name, _text(value)] for name, value in values.items()], ' class="values"')


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _text(value: Any) -> str:
    """Return a value as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return str(value)


# --- the file -------------------------------------------------------------------------------


def _write(path: str | os.PathLike[str], title: str, parts: Iterable[str], data: Any) -> None:
    assets = files("fastbn.train") / "assets"

    def asset(name: str) -> str:
        return (assets / name).read_text(encoding="utf-8")

    told = json.dumps(finite(data), separators=(",", ":")).replace("</", "<\\/")
    licence = "uPlot: " + asset("uPlot.LICENSE").replace("--", "- -").strip()
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<!-- {licence} -->
<style>{asset("uPlot.min.css")}{asset("report.css")}</style></head>
<body>
{"".join(parts)}
<script type="application/json" id="data">{told}</script>
<script>{asset("uPlot.iife.min.js")}</script>
<script>{asset("report.js")}</script>
</body></html>
"""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
