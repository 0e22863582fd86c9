"""One style for all plots: the same look for the same thing, also in grey and for the colour-blind.

Colours are those of Okabe and Ito (2008). Lines differ in dash and marker as well, bars in hatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.files import atomic
from fastbn.train import plot

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
PANEL = (4.6, 3.4)  # inches
MARKERS = 8  # along a line


class Style(NamedTuple):
    """How lines and bars of one kind look."""

    color: str
    linestyle: Any
    marker: str
    hatch: str


BN, NO_BN = "BN", "no BN"
STYLES = {
    BN: Style("#0072B2", "-", "o", ""),
    NO_BN: Style("#D55E00", "--", "s", "//"),
}
OTHERS = (
    Style("#009E73", "-.", "^", ".."),
    Style("#CC79A7", ":", "D", "xx"),
    Style("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v", "\\\\"),
    Style("#56B4E9", (0, (1, 1)), "P", "++"),
    Style("#000000", (0, (8, 2)), "X", "--"),
    Style("#9A8700", (0, (3, 1)), "*", "oo"),
)


def style(name: str, names: Sequence[str] = ()) -> Style:
    """Return the look of "BN" or "no BN", or of another of the names that are drawn together.

    Examples
    --------
    >>> style("BN").color, style("GN", ["BN", "GN", "LN"]) is OTHERS[0]
    ('#0072B2', True)
    """
    if name in STYLES:
        return STYLES[name]
    others = [other for other in names if other not in STYLES]
    return OTHERS[others.index(name) % len(OTHERS)]


def figure(
    title: str,
    rows: int = 1,
    columns: int = 1,
    *,
    panel: tuple[float, float] = PANEL,
    **options: Any,
) -> tuple[Figure, Array]:
    """Return a figure with a title and an array ``(rows, columns)`` of axes.

    Parameters
    ----------
    title : str
    rows, columns : int
    panel : (float, float)
        Width and height of each, in inches.
    **options
        Of matplotlib's `Figure.subplots`: ``sharey=True``, say.
    """
    from matplotlib.figure import Figure

    width, height = panel
    drawn = Figure(figsize=(columns * width, rows * height + 0.3), layout="constrained")
    drawn.suptitle(title, fontsize=13)
    axes = drawn.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.grid(alpha=0.3)
        each.tick_params(labelsize=8)
    return drawn, axes


def curve(axes: Axes, x: Sequence[float], values: Array, name: str, look: Style) -> None:
    """Draw the mean over the seeds as a line, and their range as a band.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    x : sequence of float
    values : ndarray
        ``(seeds, len(x))``; what is NaN is left out, so that a line ends where training did.
    name : str
        For the legend.
    look : Style
    """
    known = np.isfinite(values).all(axis=0)
    at, of = np.asarray(x)[known], values[:, known]
    axes.plot(
        at,
        of.mean(axis=0),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markevery=max(1, len(at) // MARKERS),
        markersize=4,
        linewidth=1.4,
        label=name,
    )
    if len(of) > 1:
        axes.fill_between(
            at, of.min(axis=0), of.max(axis=0), color=look.color, alpha=0.2, linewidth=0
        )


def bars(axes: Axes, names: Sequence[str], values: Sequence[Array], looks: Sequence[Style]) -> None:
    """Draw the mean over the seeds of each as a horizontal bar, and their range as a line."""
    for row, (seeds, look) in enumerate(zip(values, looks, strict=True)):
        mean = float(np.mean(seeds))
        axes.barh(row, mean, color=look.color, hatch=look.hatch, edgecolor="white", height=0.7)
        axes.plot([np.min(seeds), np.max(seeds)], [row, row], color="black", linewidth=1.5)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def save(drawn: Figure | Animation, folder: Path, name: str) -> str:
    """Write a figure as PNG, an animation as GIF; return the file's name."""
    from matplotlib.figure import Figure

    if isinstance(drawn, Figure):
        plot.save(drawn, folder / f"{name}.png")
        return f"{name}.png"
    with atomic(folder / f"{name}.gif") as temporary:
        from matplotlib.animation import PillowWriter

        unfinished = temporary.with_suffix(".gif")  # the writer goes by the suffix
        drawn.save(unfinished, writer=PillowWriter(fps=4))
        unfinished.replace(temporary)
    return f"{name}.gif"
