"""Layers and containers under PyTorch's names, channels-last, each forward above its backward.

Examples
--------
>>> import numpy as np
>>> from fastbn import nn, optim
>>> net = nn.Sequential(nn.Linear(2, 8, rng=0), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 2, rng=1))
>>> loss = nn.CrossEntropyLoss()
>>> adam = optim.Adam(net.parameters(), lr=0.05)
>>> x = np.random.default_rng(2).standard_normal((64, 2)).astype(np.float32)
>>> labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
>>> for _ in range(100):
...     value, dlogits = loss(net(x), labels)
...     net.backward(dlogits)
...     adam.step()
>>> value < 0.2
True
"""

from __future__ import annotations

from fastbn.nn.activation import LeakyReLU as LeakyReLU
from fastbn.nn.activation import ReLU as ReLU
from fastbn.nn.activation import Sigmoid as Sigmoid
from fastbn.nn.activation import Softmax as Softmax
from fastbn.nn.activation import Tanh as Tanh
from fastbn.nn.adaptive import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from fastbn.nn.affine import Affine as Affine
from fastbn.nn.batchnorm import BatchNorm as BatchNorm
from fastbn.nn.check import check_gradients as check_gradients
from fastbn.nn.clamp import Clamp as Clamp
from fastbn.nn.concat import Concat as Concat
from fastbn.nn.containers import Residual as Residual
from fastbn.nn.containers import Sequential as Sequential
from fastbn.nn.conv import Conv2d as Conv2d
from fastbn.nn.conv1d import Conv1d as Conv1d
from fastbn.nn.conv3d import Conv3d as Conv3d
from fastbn.nn.conv_transpose import ConvTranspose2d as ConvTranspose2d
from fastbn.nn.diagnose import diagnose as diagnose
from fastbn.nn.diagnose import recalibrate as recalibrate
from fastbn.nn.dropout import Dropout as Dropout
from fastbn.nn.dropout import Dropout2d as Dropout2d
from fastbn.nn.flatten import Flatten as Flatten
from fastbn.nn.graph import Graph as Graph
from fastbn.nn.groupnorm import GroupNorm as GroupNorm
from fastbn.nn.groupnorm import InstanceNorm as InstanceNorm
from fastbn.nn.joins import Add as Add
from fastbn.nn.joins import Concatenate as Concatenate
from fastbn.nn.joins import Multiply as Multiply
from fastbn.nn.joins import add as add
from fastbn.nn.joins import concat as concat
from fastbn.nn.joins import multiply as multiply
from fastbn.nn.layernorm import LayerNorm as LayerNorm
from fastbn.nn.layernorm import RMSNorm as RMSNorm
from fastbn.nn.linear import Linear as Linear
from fastbn.nn.loss import BCEWithLogitsLoss as BCEWithLogitsLoss
from fastbn.nn.loss import CrossEntropyLoss as CrossEntropyLoss
from fastbn.nn.loss import HuberLoss as HuberLoss
from fastbn.nn.loss import L1Loss as L1Loss
from fastbn.nn.loss import MSELoss as MSELoss
from fastbn.nn.lrn import LocalResponseNorm as LocalResponseNorm
from fastbn.nn.matmul import MatMul as MatMul
from fastbn.nn.module import Module as Module
from fastbn.nn.padding import ConstantPad2d as ConstantPad2d
from fastbn.nn.padding import ZeroPad as ZeroPad
from fastbn.nn.padding import ZeroPad2d as ZeroPad2d
from fastbn.nn.parameter import Parameter as Parameter
from fastbn.nn.pointwise import LogSoftmax as LogSoftmax
from fastbn.nn.pointwise import Pointwise as Pointwise
from fastbn.nn.pointwise import Power as Power
from fastbn.nn.pooling import AvgPool2d as AvgPool2d
from fastbn.nn.pooling import GlobalAvgPool2d as GlobalAvgPool2d
from fastbn.nn.pooling import MaxPool2d as MaxPool2d
from fastbn.nn.population import population_statistics as population_statistics
from fastbn.nn.prelu import PReLU as PReLU
from fastbn.nn.rearrange import ChannelShuffle as ChannelShuffle
from fastbn.nn.rearrange import Permute as Permute
from fastbn.nn.rearrange import PixelShuffle as PixelShuffle
from fastbn.nn.rearrange import Reshape as Reshape
from fastbn.nn.reduce import Mean as Mean
from fastbn.nn.restore import restore_batch_norm as restore_batch_norm
from fastbn.nn.scale import Scale as Scale
from fastbn.nn.slices import Slice as Slice
from fastbn.nn.smooth import ELU as ELU
from fastbn.nn.smooth import GELU as GELU
from fastbn.nn.smooth import SELU as SELU
from fastbn.nn.smooth import Hardsigmoid as Hardsigmoid
from fastbn.nn.smooth import Hardswish as Hardswish
from fastbn.nn.smooth import Mish as Mish
from fastbn.nn.smooth import ReLU6 as ReLU6
from fastbn.nn.smooth import SiLU as SiLU
from fastbn.nn.smooth import Softplus as Softplus
from fastbn.nn.spread import Broadcast as Broadcast
from fastbn.nn.symbol import Input as Input
from fastbn.nn.symbol import Symbol as Symbol
from fastbn.nn.take import Take as Take
from fastbn.nn.upsample import Upsample as Upsample

BatchNorm1d = BatchNorm2d = BatchNorm3d = BatchNorm  # PyTorch's names: the axes do not matter here
