"""Image sets: read from their original files, shown to the network in mini-batches.

``load`` answers a name or a directory with a `Dataset`; ``fetch`` downloads what can be
downloaded. Images are channels-last float32 in [0, 1], labels int64.
"""

from __future__ import annotations

from fastbn.data.batches import Batches
from fastbn.data.dataset import Dataset
from fastbn.data.download import fetch
from fastbn.data.sources import NAMES, load

__all__ = ["NAMES", "Batches", "Dataset", "fetch", "load"]
