"""Training: the loop, its history and its progress bar, and files of weights."""

from __future__ import annotations

from fastbn.train import metrics as metrics
from fastbn.train.history import Epoch as Epoch
from fastbn.train.history import History as History
from fastbn.train.trainer import Evaluation as Evaluation
from fastbn.train.trainer import Trainer as Trainer
from fastbn.train.weights import Metadata as Metadata
from fastbn.train.weights import load as load
from fastbn.train.weights import read as read
from fastbn.train.weights import save as save
