"""What folding did, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastbn.export.report import Report, ValidationReport


@dataclass(slots=True)
class NodeEntry(Report):
    """Fate of one BatchNormalization.

    Attributes
    ----------
    node : str
        Its name, or that of its output where it has none.
    action : str
        ``"folded"``, ``"removed"`` (it did nothing, or nobody read it), ``"merged"`` (it stays and
        took its constant neighbours in) or ``"kept"``.
    into : list of str
        Nodes that carry its affine now.
    reason : str
        Why it stayed; empty if it did not.
    """

    node: str
    action: str
    into: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass(slots=True)
class FoldReport(Report):
    """Counts before and after, the fate of every BatchNormalization, and how far it was proven.

    Attributes
    ----------
    bn_before, bn_left : int
        BatchNormalization nodes, subgraphs and functions included.
    affine_left : int
        Additional Mul, Add, Sub or Div with a constant and depthwise 1×1 convolutions; a fold
        that only turned a BatchNorm into a multiplication and an addition would show here.
    affines_folded : int
        Of those, without a BatchNorm in sight, how many went into a convolution or product.
    convolutions_merged : int
        Convolutions, and what adds up with them, that became part of another one.
    nodes_before, nodes_after : int
        All nodes, subgraphs included.
    max_abs_f64 : float or None
        Worst difference of the folded model in onnxruntime from the float64 truth of the
        original; None if it was not verified.
    nodes : list of NodeEntry
        One entry for every BatchNormalization of the input.
    sample_norms : list of NodeEntry
        LayerNormalization and its like whose weight and bias other nodes carry now.
    verification : ValidationReport or None
        The whole comparison.
    notes : list of str
        What else is to be known.

    Examples
    --------
    >>> from onnx import parser
    >>> from fastbn import export
    >>> model = parser.parse_model('''
    ... <ir_version: 8, opset_import: ["" : 18]>
    ... net (float[N, 2] x) => (float[N, 2] y)
    ... <float[2] one = {1, 1}, float[2] zero = {0, 0}>
    ... { y = BatchNormalization (x, one, zero, zero, one) }''')
    >>> folded, report = export.fold_batch_norm(model)
    >>> report.bn_before, report.bn_left, report.affine_left
    (1, 1, 0)
    """

    bn_before: int = 0
    bn_left: int = 0
    affine_left: int = 0
    affines_folded: int = 0
    convolutions_merged: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    max_abs_f64: float | None = None
    nodes: list[NodeEntry] = field(default_factory=list)
    sample_norms: list[NodeEntry] = field(default_factory=list)
    verification: ValidationReport | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was folded, removed or merged."""
        others = self.affines_folded + self.convolutions_merged + len(self.sample_norms)
        return others > 0 or any(entry.action != "kept" for entry in self.nodes)
