"""What the literature claims about batch normalisation, as experiments: one file each.

An `Experiment` is a function of (settings, network, seed) that measures, one that judges claims by
the measurements, and one that draws. `reproduce` runs it into a folder.

Examples
--------
>>> import tempfile
>>> from fastbn import experiments
>>> with tempfile.TemporaryDirectory() as folder:
...     told = experiments.reproduce("vanishing-gradient", folder, seeds=1, quick=True)
>>> all(claim["verdict"] in {"holds", "partly", "does not"} for claim in told["claims"])
True
"""

from __future__ import annotations

from fastbn.experiments.experiment import Claim as Claim
from fastbn.experiments.experiment import Experiment as Experiment
from fastbn.experiments.experiment import Results as Results
from fastbn.experiments.experiment import Spread as Spread
from fastbn.experiments.experiment import verdict as verdict
from fastbn.experiments.registry import NAMES as NAMES
from fastbn.experiments.registry import get as get
from fastbn.experiments.reproduce import reproduce as reproduce
from fastbn.experiments.reproduce import reproduce_all as reproduce_all
