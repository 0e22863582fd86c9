"""Optimizers with PyTorch's formulas, defaults and wording; the sweeps run in the compiled core.

Examples
--------
>>> import numpy as np
>>> from fastbn import nn, optim
>>> weight = nn.Parameter([1.0, -2.0])
>>> sgd = optim.SGD([weight], lr=0.1)
>>> weight.grad = [1.0, 1.0]
>>> sgd.step()
>>> weight.data
array([ 0.9, -2.1])
"""

from __future__ import annotations

from fastbn.optim import schedules as schedules
from fastbn.optim.adam import Adam as Adam
from fastbn.optim.adam import AdamW as AdamW
from fastbn.optim.clip import clip_grad_norm as clip_grad_norm
from fastbn.optim.ema import EMA as EMA
from fastbn.optim.groups import no_decay as no_decay
from fastbn.optim.lookahead import Lookahead as Lookahead
from fastbn.optim.optimizer import Optimizer as Optimizer
from fastbn.optim.sgd import SGD as SGD
