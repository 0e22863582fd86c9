"""What a plan costs at run time, in passes over memory.

Folding into weights is free. Turning a Relu into Max or Min is not always: onnxruntime fuses a Relu
into the convolution in front of it, and a BatchNorm with the Relu behind it where its layout of
blocked channels is in use. Measured on its CPU provider: one Max takes as long as such a BatchNorm
with its Relu, Max and Min a quarter of the whole network's time more.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Refused
from fastbn.export.fold.chains import Chain
from fastbn.export.fold.plan import Bounds, Plan

# The runtime runs these together with a Relu or Clip right behind them.
_FUSES = ("Conv", "Gemm", "ConvTranspose")
# What these make may be in the layout of blocked channels.
_BLOCKED = (*_FUSES, "MaxPool", "AveragePool", "Concat", "Add", "Sum", "Relu")


def require_no_cost(plan: Plan, chain: Chain) -> None:
    """Refuse a plan whose new bounds take more passes than the chain it removes."""
    added = sum(_added(node, bounds, chain) for node, bounds in plan.bounds.items())
    if added > len(chain.nodes):
        raise Refused("Max and Min in place of a Relu would take more time than it does")


def _added(node: ir.Node, bounds: Bounds, chain: Chain) -> int:
    if bounds.low.size == 1 and bounds.high.size == 1:
        return 0  # a Relu or Clip stays one
    passes = 1 + int(not np.isneginf(bounds.low).all() and not np.isposinf(bounds.high).all())
    return passes - (0 if _is_free(node, chain) else 1)


def _is_free(node: ir.Node, chain: Chain) -> bool:
    """Whether the runtime does this Relu on the way, in the node in front of it."""
    source = node.inputs[0]
    if source is None or node.op_type not in ("Relu", "Clip"):
        return False
    if source is chain.result:
        maker = chain.source.producer()
        return len(chain.nodes) == 1 and maker is not None and maker.op_type in _BLOCKED
    producer = source.producer()
    if producer is None or len(source.uses()) != 1 or source.is_graph_output():
        return False
    if producer.op_type == "Add":
        makers = [v.producer() for v in producer.inputs if v is not None]
        return any(maker is not None and maker.op_type in _FUSES for maker in makers)
    return producer.op_type in _FUSES
