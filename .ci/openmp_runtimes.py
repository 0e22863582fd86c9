"""Time a training step alone and beside packages with an OpenMP of their own; same bits, each.

Each is a process, started in turn, several rounds; the median step of its quickest round is shown.
"between" has the other package at work before every step, so that its pool has just been busy.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 3
STEPS = 15

Work = Callable[[], object]


def torch() -> Work:
    """Return work for PyTorch's threads."""
    import torch

    x = torch.rand(1 << 20)
    return lambda: torch.relu(x)


def sklearn() -> Work:
    """Return work for the threads of scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    x, y = rng.random((500, 8)), rng.integers(0, 2, 500)
    model = HistGradientBoostingClassifier(max_iter=1, random_state=0)
    return lambda: model.fit(x, y)


OTHERS: dict[str, Callable[[], Work]] = {"torch": torch, "sklearn": sklearn}


def measure(other: str) -> dict[str, Any]:
    """Time steps in this process, beside another package if it is named."""
    work = OTHERS[other]() if other else None
    if work is not None:
        work()

    from fastbn import models, nn, optim

    net = models.convnet((28, 28, 1), rng=0)
    optimizer, loss = optim.Adam(net.parameters()), nn.CrossEntropyLoss()
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 28, 28, 1), np.float32), rng.integers(0, 10, 64)

    def steps(before: Work | None) -> float:
        seconds = []
        for _ in range(STEPS):
            if before is not None:
                before()
            begin = time.perf_counter()
            _, dlogits = loss(net(x), y)
            net.backward(dlogits)
            optimizer.step()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds) * 1e3

    steps(None)
    found: dict[str, Any] = {"beside": steps(None)}
    digest = hashlib.sha256(b"".join(p.data.tobytes() for p in net.parameters()))
    if work is not None:
        found["between"] = steps(work)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    libraries = {name for each in mapped if re.match(r"lib[gi]*omp", name := Path(each).name)}
    return {**found, "bits": digest.hexdigest(), "libraries": sorted(libraries)}


def main() -> int:
    """Print a line for each; return 1 where results depend on what else is loaded."""
    names = ["", *(name for name in OTHERS if find_spec(name) is not None)]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            command = [sys.executable, __file__, f"--beside={name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            rounds[name].append(json.loads(done.stdout))
    alone = min(each["beside"] for each in rounds[""])
    for name, found in rounds.items():
        told = f"{name or 'alone'}:"
        for kind in ("beside", "between"):
            if kind in found[0]:
                best = min(each[kind] for each in found)
                told += f" {kind} {best:.2f} ms ({best / alone:.2f} of alone);"
        print(told, ", ".join(found[0]["libraries"]))
    same = len({each["bits"] for found in rounds.values() for each in found}) == 1
    print("the weights are the same to the bit" if same else "the weights differ")
    return 0 if same else 1


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1].removeprefix("--beside="))))
    else:
        sys.exit(main())
