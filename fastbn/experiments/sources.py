"""The texts whose claims are looked at, as the pages name them."""

from __future__ import annotations

PAPER = "Ioffe & Szegedy 2015"
TUTORIAL_A = "tutorial A (TensorFlow, 5-layer CNN)"
TUTORIAL_B = "tutorial B (7 × 30 regression)"
TUTORIAL_C = "tutorial C (dropout and BN)"
TUTORIAL_D = "tutorial D (Keras, PyTorch MLP)"
SANTURKAR = "Santurkar et al. 2018"
IOFFE_2017 = "Ioffe 2017 (renorm)"
HOFFER = "Hoffer et al. 2017 (ghost batches)"
WU = "Wu & He 2018 (group normalisation)"
LI = "Li et al. 2019 (variance shift)"
OWN = "fastbn's own question"
