"""The networks of the literature, one file each, and a registry of them by name.

Examples
--------
>>> from fastbn import models
>>> net = models.mlp(input_shape=(28, 28, 1), classes=10, rng=0)
>>> net.output_shape((28, 28, 1))
(10,)
"""

from __future__ import annotations

from fastbn.models.convnet import convnet as convnet
from fastbn.models.inception import inception as inception
from fastbn.models.mlp import mlp as mlp
from fastbn.models.registry import build as build
from fastbn.models.registry import names as names
from fastbn.models.registry import register as register
from fastbn.models.resnet import resnet20 as resnet20
from fastbn.models.speedrun import speedrun as speedrun
from fastbn.models.torch_weights import load_torch as load_torch
