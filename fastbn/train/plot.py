"""Pictures, where matplotlib is installed (the extra ``plot``)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn.files import atomic
from fastbn.train.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def available() -> bool:
    """Tell whether matplotlib is installed, without importing it."""
    return importlib.util.find_spec("matplotlib") is not None


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture in one step; the suffix tells its format, PNG where there is none."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format=Path(path).suffix[1:] or "png")


def training_curves(history: History, path: str | os.PathLike[str]) -> None:
    """Draw loss and accuracy over the epochs, of the training and of the validation set.

    Parameters
    ----------
    history : History
        What `fastbn.train.Trainer.fit` returned; at least one epoch.
    path : path
        The picture; its suffix tells the format.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there are no epochs, or the suffix is of no known format.
    """
    if not history.epochs:
        raise ValueError("there is nothing to draw: the history has no epochs")
    # Without pyplot, no window system is touched and nothing global is left behind.
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "fastbn[plot]"') from error

    numbers = [epoch.epoch for epoch in history.epochs]
    curves: tuple[tuple[str, Sequence[float | None], Sequence[float | None]], ...] = (
        ("loss", history.loss, history.val_loss),
        ("accuracy", history.accuracy, history.val_accuracy),
    )
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (title, training, validation) in zip(figure.subplots(1, 2), curves, strict=True):
        for label, values in (("training", training), ("validation", validation)):
            if None not in values:
                axes.plot(numbers, values, marker="o", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_yscale("log" if title == "loss" else "linear")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save(figure, path)
