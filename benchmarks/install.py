"""What an installation costs beside PyTorch's: bytes on the disk, import time, memory.

Each import and each training is a process of its own that knows nothing of the other library.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from rich.table import Table

MAPPED = ("fastbn", "fastbn.bench", "fastbn.export", "fastbn.models")
SHIPPED = {".py", ".pyi", ".so", ".pyd", ".typed", ".css", ".html", ".js"}
MB = 1e6
ROUNDS = 5

IMPORT = """
import time
begin = time.perf_counter()
{statement}
print(time.perf_counter() - begin)
"""
# What a training needs: `import fastbn` alone loads next to nothing.
STATEMENTS = {"fastbn": "from fastbn import data, nn, optim, train", "torch": "import torch"}

# Not getrusage: its peak begins with that of the process which started this one.
PEAK = """
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""

# The same network, batch and optimizer: 3×3 convolutions of 32, 32, 64 and 64 channels with BN.
TRAINING = {
    "fastbn": """
import numpy as np
from fastbn import nn, optim
layers, channels = [], 1
for width, pool in ((32, False), (32, True), (64, False), (64, True)):
    layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm(width), nn.ReLU()]
    layers += [nn.MaxPool2d(2)] if pool else []
    channels = width
net = nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Linear(64, 10))
optimizer, loss = optim.Adam(net.parameters(), lr=1e-3), nn.CrossEntropyLoss()
rng = np.random.default_rng(0)
for _ in range(20):
    x, y = rng.random((64, 28, 28, 1), np.float32), rng.integers(0, 10, 64)
    value, dlogits = loss(net(x), y)
    net.backward(dlogits)
    optimizer.step()
"""
    + PEAK,
    "torch": """
import numpy as np
import torch
from torch import nn
layers, channels = [], 1
for width, pool in ((32, False), (32, True), (64, False), (64, True)):
    layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
    layers += [nn.MaxPool2d(2)] if pool else []
    channels = width
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
rng = np.random.default_rng(0)
for _ in range(20):
    x, y = rng.random((64, 1, 28, 28), np.float32), rng.integers(0, 10, 64)
    optimizer.zero_grad()
    value = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
    value.backward()
    optimizer.step()
"""
    + PEAK,
}


@dataclass(frozen=True)
class Cost:
    """What one library takes.

    Attributes
    ----------
    installed, alone : int
        Bytes on the disk, with all packages that it needs, and without.
    seconds : float
        Of its import, the quickest of some.
    peak : int
        Bytes of memory of a process that trains, at the most.
    """

    installed: int
    alone: int
    seconds: float
    peak: int


def measure(progress: Callable[[str], None]) -> dict[str, Cost]:
    """Measure the libraries that are installed, in turns."""
    there = [name for name in STATEMENTS if importlib.util.find_spec(name) is not None]
    seconds: dict[str, list[float]] = {name: [] for name in there}
    peaks: dict[str, list[float]] = {name: [] for name in there}
    for number in range(ROUNDS):
        for name in there:
            progress(f"{name}, round {number + 1} of {ROUNDS}")
            seconds[name].append(_printed(IMPORT.format(statement=STATEMENTS[name])))
            peaks[name].append(_printed(TRAINING[name]))
    return {
        name: Cost(
            sum(map(size, needed(name))), size(name), min(seconds[name]), int(min(peaks[name]))
        )
        for name in there
    }


def _printed(program: str) -> float:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def needed(name: str) -> set[str]:
    """Return a distribution and all that it needs, without extras; those that are installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def below(package: str) -> Iterator[str]:
        for line in distribution(package).requires or ():
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                yield canonicalize_name(asked.name)

    found: set[str] = set()
    left = [name]
    while left:
        package = left.pop()
        try:
            others = [*below(package)]
        except PackageNotFoundError:  # for another system, say
            continue
        found.add(package)
        left += [other for other in others if other not in found]
    return found


def size(name: str) -> int:
    """Return the bytes of a distribution's files, without bytecode."""
    files = {path.resolve() for path in _files(distribution(name))}
    return sum(path.stat().st_size for path in files if path.is_file())


def _files(found: Distribution) -> Iterator[Path]:
    if found.name == "fastbn":  # of an editable install, the files are elsewhere
        for module in MAPPED:
            spec = importlib.util.find_spec(module)
            assert spec is not None
            for folder in spec.submodule_search_locations or ():
                yield from (p for p in Path(folder).rglob("*") if p.suffix in SHIPPED)
        return
    for path in found.files or ():
        if path.suffix != ".pyc":
            yield Path(str(path.locate()))


def table(costs: dict[str, Cost]) -> Table:
    """Return the costs side by side."""
    shown = Table(title="what an installation costs")
    for name in ("", *costs):
        shown.add_column(name, justify="right" if name else "left")
    rows = {
        "MB on disk, with all dependencies": [f"{c.installed / MB:,.0f}" for c in costs.values()],
        "MB without dependencies": [f"{c.alone / MB:,.0f}" for c in costs.values()],
        "import for training, s": [f"{c.seconds:.2f}" for c in costs.values()],
        "peak memory of training, MB": [f"{c.peak / MB:,.0f}" for c in costs.values()],
    }
    for name, values in rows.items():
        shown.add_row(name, *values)
    return shown
