"""Multiplications and additions of a constant per channel, with no BatchNorm in sight.

Some exporters leave them where a BatchNorm was. Behind a convolution or a product they go into its
weights, like a BatchNorm's affine; where that is not possible they stay.
"""

from __future__ import annotations

import onnx_ir as ir

from fastbn.export.fold.affine import MALFORMED, Refused
from fastbn.export.fold.chains import CONSTANT_AFFINES, constant_affine
from fastbn.export.fold.cleanup import bypass, graphs_of
from fastbn.export.fold.commit import commit
from fastbn.export.fold.context import Context
from fastbn.export.fold.moves import push_back
from fastbn.export.fold.plan import Plan


def fold_alone(context: Context, model: ir.Model, *, products: bool = False) -> int:
    """Fold what goes backwards without a change of anybody else; return how many nodes went.

    ``products`` says whether a MatMul may become a Gemm to take its bias in. That alone is no
    reason to change a file, and to prove the result.
    """
    folded = 0
    for graph in graphs_of(model):
        for node in list(graph):
            if node.op_type not in CONSTANT_AFFINES:
                continue
            plan = Plan(context)
            try:
                chain = constant_affine(plan, node)
                if chain is None:
                    continue
                with plan.rewriting(node):
                    push_back(plan, node, chain.entry, chain.affine)
            except (Refused, RecursionError, *MALFORMED):
                continue
            if plan.operators and not products:
                continue
            commit(plan)
            bypass(node, chain.source)
            folded += 1
    return folded
