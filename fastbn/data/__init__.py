"""Data: read from files, cut into parts, augmented, shown to the network in mini-batches.

``load`` answers a name, a folder or a file with a `Dataset`; ``fetch`` downloads what can be
downloaded; ``as_batches`` takes what a user has in memory. Samples are channels-last float32,
images in [0, 1], labels int64.
"""

from __future__ import annotations

from fastbn.data import augment as augment
from fastbn.data.batches import Batches
from fastbn.data.columns import Columns
from fastbn.data.dataset import Dataset
from fastbn.data.download import fetch
from fastbn.data.images import read_image
from fastbn.data.normalization import Normalization
from fastbn.data.prefetch import Prefetch
from fastbn.data.rows import Rows
from fastbn.data.samples import Expected, Stream, as_batches, as_samples, as_targets
from fastbn.data.sources import NAMES, load

__all__ = [
    "NAMES",
    "Batches",
    "Columns",
    "Dataset",
    "Expected",
    "Normalization",
    "Prefetch",
    "Rows",
    "Stream",
    "as_batches",
    "as_samples",
    "as_targets",
    "augment",
    "fetch",
    "load",
    "read_image",
]
