"""The folder of a run: the files that it has, when they are written, and whose they are.

It appears, whole, with the first checkpoint: until then a run that is to be replaced stays as it
is, and no folder ever holds files of two runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastbn.files import new_folder
from fastbn.train import config as configs
from fastbn.train import weights
from fastbn.train.callbacks import Checkpoint, CSVLog
from fastbn.train.config import Config

if TYPE_CHECKING:
    from fastbn.train.prepare import Run
    from fastbn.train.trainer import Trainer

CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
LAST = "last.safetensors"
HISTORY = "history.csv"
REPORT = "report.json"
CURVES = "training.png"
PAGE = "report.html"
ONNX = "model.onnx"  # of fine-tuning
FILES = (CONFIG, WEIGHTS, LAST, HISTORY, REPORT, CURVES, PAGE, ONNX)


class Keeper(Checkpoint):
    """Writes the folder of a run: checkpoints, the best weights, and the history.

    Parameters
    ----------
    run : Run
    begun : bool
        Whether the folder holds this run already.
    """

    def __init__(self, run: Run, begun: bool) -> None:
        self.run = run
        self.begun = begun
        self.folder = Path(run.config.output)
        monitor = "loss" if run.validation is None else "val_loss"
        super().__init__(self.folder / LAST, run.config.save_every, monitor=monitor)

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew."""
        self._reset()
        self._saved_at = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write the weights if they are the best, then the history, then the checkpoint."""
        if self.improved(trainer) or self.run.validation is None:
            self.best_epoch = trainer.history.last.epoch
            self._write(trainer, best=True)
        else:
            self._write(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._write(trainer)

    def save_if_begun(self, trainer: Trainer) -> None:
        """Write a checkpoint, but for a run that has shown nothing yet no folder of its own."""
        if self.begun or not self.folder.exists():
            self._write(trainer)

    def _write(self, trainer: Trainer, best: bool = False) -> None:
        if not trainer.is_first:
            pass
        elif self.begun:
            self._write_into(self.folder, trainer, best)
        else:
            with new_folder(self.folder, replace=FILES) as folder:
                text = configs.text_of(self.run.config)
                (folder / CONFIG).write_text(text, encoding="utf-8")
                self._write_into(folder, trainer, best)
            self.begun = True
        self._saved_at = trainer.steps, len(trainer.history.epochs)

    def _write_into(self, folder: Path, trainer: Trainer, best: bool) -> None:
        if best:
            weights.save(self.run.net, folder / WEIGHTS, **self.run.described)
        if trainer.history.epochs:
            CSVLog(folder / HISTORY).on_epoch_end(trainer)
        described = self.run.described
        if trainer.net is not self.run.net:  # a part, which no model makes
            described = {}
        trainer.save(folder / LAST, **described)


def find(folder: str | os.PathLike[str]) -> Config:
    """Return the config of a run's folder, with that folder as its output.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(folder)}: no run of fastbn train, it has no {CONFIG}")
    return configs.from_values({**configs.read(path), "output": os.fspath(folder)}, str(path))


def holds_unfinished(config: Config) -> bool:
    """Tell whether the folder holds a run of this very config that has not come to its end."""
    folder = Path(config.output)
    if not (folder / LAST).is_file() or (folder / REPORT).exists():
        return False
    try:
        return find(folder) == config
    except (OSError, ValueError):
        return False


def require_no_run(folder: Path, overwrite: bool) -> None:
    """Raise OSError if a folder cannot be written, or holds what this run must not replace."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise FileExistsError(f"{place} is a file; name a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: {place} is read-only; name another --output")
    if place != folder:
        return
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if names & set(FILES) and not overwrite:
        raise FileExistsError(
            f"{folder} holds a run: --resume {folder} continues it, --overwrite replaces it, "
            "or name another --output"
        )
    if others := sorted(names - set(FILES)):
        raise FileExistsError(
            f"{folder} holds {', '.join(others[:3])}, which is no part of a run: name another "
            "--output"
        )
