"""Run every large case on 1 to 4 threads and print what was seen, as JSON.

A process has one instruction-set level, chosen by FASTBN_ISA when it starts: a test of all levels
starts this file once for each.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from cases import LARGE, Case
from checks import error

import fastbn
from fastbn import functional as F
from fastbn import reference
from fastbn.kernels import runtime


def results(case: Case, dtype: Any, module: Any) -> dict[str, Any]:
    """The result, the gradients and, of batch_norm, the running statistics."""
    arrays = case.arrays(dtype)
    options = case.options(np.dtype(dtype))
    y, saved = getattr(module, case.op)(**arrays, **options)
    rng = np.random.default_rng(11)
    dy = 0.7 if isinstance(y, float) else rng.standard_normal(np.shape(y)).astype(dtype)
    buffers = {name: options[name] for name in ("running_mean", "running_var") if name in options}
    return {"y": np.asarray(y), **case.backward(module, dy, saved), **buffers}


def main() -> None:
    different, errors = [], {}
    for case in LARGE:
        for dtype in (np.float32, np.float64):
            name = f"{case} {np.dtype(dtype)}"
            seen = set()
            for threads in (1, 2, 3, 4):
                fastbn.set_num_threads(threads)
                found = results(case, dtype, F)
                seen.add(tuple(zlib.crc32(a.tobytes()) for a in found.values()))
            if len(seen) > 1:
                different.append(name)
            right = results(case, dtype, reference)
            errors[name] = max(error(found[k], right[k]) for k in right)
    print(json.dumps({"isa": runtime.isa(), "different": different, "errors": errors}))


if __name__ == "__main__":
    main()
