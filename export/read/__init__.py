"""Reading a file back: an ONNX graph for inference as a network to be trained.

`api` checks the file and tries sizes, `reader` walks through the nodes; `value` says where the axes
of the file lie here; every other file enters the readers of some operators into the table of
`node`.
"""

from __future__ import annotations

from fastbn.export.read.api import from_onnx as from_onnx
