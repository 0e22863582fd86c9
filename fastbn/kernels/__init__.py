"""The compiled core: kernels that know threads, tiles and passes, and no Python object but arrays.

``runtime`` holds what all of them share: the instruction-set level, and the one pool of threads.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

if importlib.util.find_spec(f"{__name__}.runtime") is None:
    raise ImportError(
        f"fastbn was imported from {Path(__file__).parents[2]}, where its compiled core was not "
        "built: leave that folder, or build it there with 'pip install -e .'"
    )
