"""What an experiment is, what it has measured, and what becomes of the claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.animation import Animation
    from matplotlib.figure import Figure

Array = NDArray[Any]
Verdict = Literal["holds", "partly", "does not"]
# Numbers, and lists of numbers, by name: what JSON can hold. None is a number that is not finite.
Measurements = Mapping[str, Any]
Drawn = Iterator[tuple[str, "Figure | Animation"]]


@dataclass(frozen=True)
class Claim:
    """A sentence of the literature, and what was found.

    Parameters
    ----------
    source : str
        The text that has it: one of `fastbn.experiments.sources`.
    claim : str
        What it says.
    verdict : {"holds", "partly", "does not"}
        See `verdict`.
    figures : str
        The numbers that say so.
    plot : str, optional
        Name of the plot to look at.
    """

    source: str
    claim: str
    verdict: Verdict
    figures: str
    plot: str | None = None


def verdict(*conditions: bool) -> Verdict:
    """Return "holds" if all conditions are true, "does not" if none is, else "partly".

    Examples
    --------
    >>> verdict(True, True), verdict(True, False), verdict(False)
    ('holds', 'partly', 'does not')
    """
    if all(conditions):
        return "holds"
    return "partly" if any(conditions) else "does not"


@dataclass(frozen=True)
class Spread:
    """A number over the seeds: mean and sample standard deviation (0 for one seed).

    Examples
    --------
    >>> f"{Spread([0.97, 0.98, 0.99]):.1%}", f"{Spread([2.0]):.1f}"
    ('98.0% ± 1.0%', '2.0')
    """

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean; NaN if a value was not finite."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """The sample standard deviation."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def __format__(self, spec: str) -> str:
        if not np.isfinite(self.mean):
            finite = [v for v in self.values if np.isfinite(v)]
            return f"not finite in {len(self.values) - len(finite)} of {len(self.values)}"
        spread = f" ± {self.std:{spec}}" if len(self.values) > 1 else ""
        return f"{self.mean:{spec}}{spread}"


class Results:
    """Measurements by network and seed.

    Parameters
    ----------
    settings : object
        Of the experiment.
    runs : mapping
        Of network to the measurements of every seed.
    """

    def __init__(self, settings: Any, runs: Mapping[str, Sequence[Measurements]]) -> None:
        self.settings = settings
        self.runs = runs

    @property
    def networks(self) -> list[str]:
        """The names of the networks."""
        return list(self.runs)

    def series(self, network: str, key: str) -> Array:
        """Return a measurement of every seed, ``(seeds, ...)`` of float64, NaN for None."""
        return np.array([run[key] for run in self.runs[network]], dtype=np.float64)

    def spread(self, network: str, key: str) -> Spread:
        """Return a measurement that is a number, over the seeds."""
        return Spread(self.series(network, key).tolist())

    def numbers(self) -> dict[str, dict[str, Spread]]:
        """Return all measurements that are numbers, by network and name."""
        return {
            network: {
                key: self.spread(network, key)
                for key, value in seeds[0].items()
                if value is None or isinstance(value, int | float)
            }
            for network, seeds in self.runs.items()
        }


@dataclass(frozen=True)
class Experiment:
    """An experiment, declared.

    Parameters
    ----------
    name : str
        On the command line; the file has it with underscores.
    title : str
    text : str
        What is done, in Markdown's plain paragraphs: the module's docstring.
    full, quick : dataclass
        Settings of the whole experiment, and of one in about ten seconds. A field ``data``, a
        tuple of what `fastbn.data.load` takes, is what ``--data`` replaces.
    networks : callable
        ``networks(settings)`` returns the names of what is trained, or measured.
    measure : callable
        ``measure(settings, network, seed)`` returns `Measurements`; those that are numbers are
        shown with mean and spread.
    judge : callable
        ``judge(results)`` returns a `Claim` for everything that is said.
    draw : callable
        ``draw(results)`` yields name and figure of every plot.
    """

    name: str
    doc: str
    full: Any
    quick: Any
    networks: Callable[[Any], Iterable[str]]
    measure: Callable[[Any, str, int], Measurements]
    judge: Callable[[Results], Sequence[Claim]]
    draw: Callable[[Results], Drawn]

    @property
    def title(self) -> str:
        """What the experiment is called on pages."""
        return self.doc.partition("\n")[0].rstrip(".")

    @property
    def text(self) -> str:
        """What is done, in paragraphs."""
        return self.doc.partition("\n")[2].strip()
