"""Training: the loop, what happens beside it, its history, checkpoints, and files of weights."""

from __future__ import annotations

from fastbn.train import metrics as metrics
from fastbn.train.callbacks import Callback as Callback
from fastbn.train.callbacks import Checkpoint as Checkpoint
from fastbn.train.callbacks import CSVLog as CSVLog
from fastbn.train.callbacks import EarlyStopping as EarlyStopping
from fastbn.train.callbacks import ReduceOnPlateau as ReduceOnPlateau
from fastbn.train.callbacks import TensorBoard as TensorBoard
from fastbn.train.evaluation import Evaluation as Evaluation
from fastbn.train.guard import NaNGuard as NaNGuard
from fastbn.train.guard import NotFiniteError as NotFiniteError
from fastbn.train.history import Epoch as Epoch
from fastbn.train.history import History as History
from fastbn.train.monitor import Monitor as Monitor
from fastbn.train.probe import LearningRates as LearningRates
from fastbn.train.trainer import Trainer as Trainer
from fastbn.train.views import mirrored_and_moved as mirrored_and_moved
from fastbn.train.views import predict_views as predict_views
from fastbn.train.weights import Metadata as Metadata
from fastbn.train.weights import load as load
from fastbn.train.weights import read as read
from fastbn.train.weights import save as save
