"""Training by several processes: on one machine, or on several that MPI connects.

Every process, a rank, holds the whole network and computes with its part of each batch; gradients
are added over all ranks while backward goes on, and BatchNorm's statistics are merged in the order
of the ranks. See `fastbn.train.Trainer` (``communicator=``), and ``fastbn train --processes``.
"""

from __future__ import annotations

from fastbn.distributed.communicator import Communicator as Communicator
from fastbn.distributed.communicator import Handle as Handle
from fastbn.distributed.communicator import RankError as RankError
from fastbn.distributed.communicator import Timed as Timed
from fastbn.distributed.gradients import Gradients as Gradients
from fastbn.distributed.mpi import MPICommunicator as MPICommunicator
from fastbn.distributed.replicas import DriftError as DriftError
