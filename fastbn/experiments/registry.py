"""The experiments by name."""

from __future__ import annotations

from importlib import import_module

from fastbn.experiments.experiment import Experiment

# In the order of the index page; the file of each has its name, with underscores.
NAMES = (
    "five-layer-cnn",
    "deep-regression",
    "paper-mnist",
    "paper-inception",
    "ensemble",
    "dropout-and-bn",
    "vanishing-gradient",
    "population-statistics",
    "keras-pytorch-mlp",
    "small-batches",
    "bn-before-or-after",
    "sequences",
    "shift",
)


def get(name: str) -> Experiment:
    """Return an experiment; ValueError if there is none of this name."""
    if name not in NAMES:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(NAMES)}, and all")
    module = import_module(f"fastbn.experiments.{name.replace('-', '_')}")
    experiment: Experiment = module.experiment
    return experiment
