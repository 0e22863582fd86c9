"""Groups of parameters that training recipes want."""

from __future__ import annotations

from typing import Any

from fastbn.nn import Module
from fastbn.optim.settings import Scheduled


def no_decay(net: Module, weight_decay: Scheduled) -> list[dict[str, Any]]:
    """Return two groups: weights that decay, and what does not.

    Biases and the parameters of normalisation layers, all that have one axis or none, do not
    decay (Goyal et al. 2017, Section 5.3; He et al. 2019, "no bias decay").

    Parameters
    ----------
    net : Module
    weight_decay : float or callable
        Of the first group; that of the second is 0.

    Returns
    -------
    list of dict
        For any optimizer.

    Examples
    --------
    >>> from fastbn import nn, optim
    >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm(3))
    >>> optim.AdamW(no_decay(net, 0.05), lr=0.01)
    AdamW(
      1 parameters: lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.05
      2 parameters: lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0
    )
    """
    params = list(net.parameters())
    return [
        {"params": [p for p in params if len(p.shape) > 1], "weight_decay": weight_decay},
        {"params": [p for p in params if len(p.shape) <= 1], "weight_decay": 0.0},
    ]
