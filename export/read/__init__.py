"""Reading a file back: an ONNX graph for inference as a network to be trained.

`reader` walks through the nodes; `value` says where the axes of the file lie here; every other file
enters the readers of some operators into the table of `node`.
"""

from __future__ import annotations

from fastbn.export.read.reader import from_onnx as from_onnx
