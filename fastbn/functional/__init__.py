"""Arrays in, arrays out: every operation of the library as a forward/backward pair.

``y, saved = operation(x, ...)`` and ``gradients = operation_backward(dy, saved, ...)``. Arrays are
channels-last. Arguments are checked before anything is changed. Each pair has a twin of the same
name in :mod:`fastbn.reference`, in plain NumPy float64.
"""

from __future__ import annotations

from fastbn.functional.batchnorm import batch_norm as batch_norm
from fastbn.functional.batchnorm import batch_norm_backward as batch_norm_backward
from fastbn.functional.conv import conv2d as conv2d
from fastbn.functional.conv import conv2d_backward as conv2d_backward
from fastbn.functional.linear import linear as linear
from fastbn.functional.linear import linear_backward as linear_backward
