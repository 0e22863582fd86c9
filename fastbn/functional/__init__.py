"""Arrays in, arrays out: every operation of the library as a forward/backward pair.

``y, saved = operation(x, ...)`` and ``gradients = operation_backward(dy, saved, ...)``. Arrays are
channels-last. Arguments are checked before anything is changed. Each pair has a twin of the same
name in :mod:`fastbn.reference`, in plain NumPy float64.
"""

from __future__ import annotations

from fastbn.functional.activation import leaky_relu as leaky_relu
from fastbn.functional.activation import leaky_relu_backward as leaky_relu_backward
from fastbn.functional.activation import relu as relu
from fastbn.functional.activation import relu_backward as relu_backward
from fastbn.functional.activation import sigmoid as sigmoid
from fastbn.functional.activation import sigmoid_backward as sigmoid_backward
from fastbn.functional.activation import softmax as softmax
from fastbn.functional.activation import softmax_backward as softmax_backward
from fastbn.functional.activation import tanh as tanh
from fastbn.functional.activation import tanh_backward as tanh_backward
from fastbn.functional.add import add as add
from fastbn.functional.batchnorm import batch_norm as batch_norm
from fastbn.functional.batchnorm import batch_norm_backward as batch_norm_backward
from fastbn.functional.concat import concat as concat
from fastbn.functional.concat import concat_backward as concat_backward
from fastbn.functional.conv import conv2d as conv2d
from fastbn.functional.conv import conv2d_algorithm as conv2d_algorithm
from fastbn.functional.conv import conv2d_backward as conv2d_backward
from fastbn.functional.conv_transpose import conv_transpose2d as conv_transpose2d
from fastbn.functional.conv_transpose import (
    conv_transpose2d_backward as conv_transpose2d_backward,
)
from fastbn.functional.dropout import dropout as dropout
from fastbn.functional.dropout import dropout_backward as dropout_backward
from fastbn.functional.groupnorm import group_norm as group_norm
from fastbn.functional.groupnorm import group_norm_backward as group_norm_backward
from fastbn.functional.groupnorm import instance_norm as instance_norm
from fastbn.functional.groupnorm import instance_norm_backward as instance_norm_backward
from fastbn.functional.layernorm import layer_norm as layer_norm
from fastbn.functional.layernorm import layer_norm_backward as layer_norm_backward
from fastbn.functional.layernorm import rms_norm as rms_norm
from fastbn.functional.layernorm import rms_norm_backward as rms_norm_backward
from fastbn.functional.linear import linear as linear
from fastbn.functional.linear import linear_backward as linear_backward
from fastbn.functional.loss import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from fastbn.functional.loss import (
    binary_cross_entropy_with_logits_backward as binary_cross_entropy_with_logits_backward,
)
from fastbn.functional.loss import cross_entropy as cross_entropy
from fastbn.functional.loss import cross_entropy_backward as cross_entropy_backward
from fastbn.functional.loss import huber_loss as huber_loss
from fastbn.functional.loss import huber_loss_backward as huber_loss_backward
from fastbn.functional.loss import l1_loss as l1_loss
from fastbn.functional.loss import l1_loss_backward as l1_loss_backward
from fastbn.functional.loss import mse_loss as mse_loss
from fastbn.functional.loss import mse_loss_backward as mse_loss_backward
from fastbn.functional.lrn import local_response_norm as local_response_norm
from fastbn.functional.lrn import local_response_norm_backward as local_response_norm_backward
from fastbn.functional.moments import Moments as Moments
from fastbn.functional.moments import batch_moments as batch_moments
from fastbn.functional.moments import batch_moments_backward as batch_moments_backward
from fastbn.functional.moments import merge_moments as merge_moments
from fastbn.functional.moments import scale_shift as scale_shift
from fastbn.functional.moments import scale_shift_backward as scale_shift_backward
from fastbn.functional.pooling import avg_pool2d as avg_pool2d
from fastbn.functional.pooling import avg_pool2d_backward as avg_pool2d_backward
from fastbn.functional.pooling import global_avg_pool2d as global_avg_pool2d
from fastbn.functional.pooling import global_avg_pool2d_backward as global_avg_pool2d_backward
from fastbn.functional.pooling import max_pool2d as max_pool2d
from fastbn.functional.pooling import max_pool2d_backward as max_pool2d_backward
from fastbn.functional.prelu import prelu as prelu
from fastbn.functional.prelu import prelu_backward as prelu_backward
from fastbn.functional.shape import flatten as flatten
from fastbn.functional.shape import flatten_backward as flatten_backward
from fastbn.functional.smooth import elu as elu
from fastbn.functional.smooth import elu_backward as elu_backward
from fastbn.functional.smooth import gelu as gelu
from fastbn.functional.smooth import gelu_backward as gelu_backward
from fastbn.functional.smooth import hardsigmoid as hardsigmoid
from fastbn.functional.smooth import hardsigmoid_backward as hardsigmoid_backward
from fastbn.functional.smooth import hardswish as hardswish
from fastbn.functional.smooth import hardswish_backward as hardswish_backward
from fastbn.functional.smooth import mish as mish
from fastbn.functional.smooth import mish_backward as mish_backward
from fastbn.functional.smooth import relu6 as relu6
from fastbn.functional.smooth import relu6_backward as relu6_backward
from fastbn.functional.smooth import selu as selu
from fastbn.functional.smooth import selu_backward as selu_backward
from fastbn.functional.smooth import silu as silu
from fastbn.functional.smooth import silu_backward as silu_backward
from fastbn.functional.smooth import softplus as softplus
from fastbn.functional.smooth import softplus_backward as softplus_backward
