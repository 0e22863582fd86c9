"""Resume: an interrupted run continues, and ends with the very weights it would have had."""

import sys
from pathlib import Path

import numpy as np

from fastbn import data, models, optim, train

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 6
digits = data.load("digits")
last = Path("last.safetensors")
last.unlink(missing_ok=True)


def fit(*callbacks: object) -> train.Trainer:
    net = models.convnet(digits.input_shape, 10, rng=0)
    lr = optim.schedules.cosine(2e-3, EPOCHS * 41)
    trainer = train.Trainer(net, optimizer=optim.Adam(net.parameters(), lr=lr))
    if last.exists():
        print(f"going on at step {trainer.resume(last).steps}")
    trainer.fit(digits, EPOCHS, 32, validation=0.1, callbacks=callbacks, rng=0)
    return trainer


class Interruption(train.Callback):
    """In the place of a power cut, or of Ctrl-C."""

    def on_step(self, trainer: train.Trainer) -> None:
        trainer.should_stop = trainer.steps == 50


whole = fit()
fit(Interruption(), train.Checkpoint(last, every=10))  # stops between two checkpoints
resumed = fit()
ends = [trainer.net.state_dict().values() for trainer in (whole, resumed)]
same = all(map(np.array_equal, *ends))
print(f"{resumed.steps} steps, the same weights: {same}")
