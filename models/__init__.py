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
from fastbn.models.densenet import densenet121 as densenet121
from fastbn.models.efficientnet import efficientnet_lite0 as efficientnet_lite0
from fastbn.models.inception import inception as inception
from fastbn.models.mlp import mlp as mlp
from fastbn.models.mobilenet import mobilenet_v2 as mobilenet_v2
from fastbn.models.registry import build as build
from fastbn.models.registry import names as names
from fastbn.models.registry import pixels_of as pixels_of
from fastbn.models.registry import register as register
from fastbn.models.resnet import resnet18 as resnet18
from fastbn.models.resnet import resnet20 as resnet20
from fastbn.models.resnet import resnet34 as resnet34
from fastbn.models.resnet import resnet50 as resnet50
from fastbn.models.resnet import wide_resnet50_2 as wide_resnet50_2
from fastbn.models.shufflenet import shufflenet_v2 as shufflenet_v2
from fastbn.models.speedrun import speedrun as speedrun
from fastbn.models.torch_weights import load_torch as load_torch
from fastbn.models.unet import unet as unet
from fastbn.models.vgg import vgg11_bn as vgg11_bn
from fastbn.models.vgg import vgg16_bn as vgg16_bn
