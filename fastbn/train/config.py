"""The arguments of a run of training, and their file ``config.toml``."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fastbn.data.sources import FOLDERS
from fastbn.files import require_file
from fastbn.nn.across import BN_MODES

OPTIMIZERS = ("adam", "adamw", "sgd")
NORM_MODES = ("frozen", "train")
SCHEDULES = ("constant", "cosine", "exponential", "one_cycle")
NAMED = ("digits", *FOLDERS)  # data sets, whatever a folder is called
AUGMENTATIONS = ("flip", "shift", "crop", "cutout", "brightness")


@dataclass(frozen=True)
class Config:
    """All arguments of ``fastbn train``.

    Attributes
    ----------
    model : str
        A name in `fastbn.models`, or ``package.module:factory``. In fine-tuning also a file of
        weights, ``.safetensors``, or an ONNX file.
    data : str
        What `fastbn.data.load` takes, with `target`, `size` and `channels` as there.
    output : str
        Folder of the run.
    set : dict
        Arguments of the model.
    freeze : str or None
        Makes it a fine-tuning: "backbone" trains the head alone, "none" everything, and a number
        leaves this many of the first convolutions and Linear layers, with their norms, as they are.
    weights : str or None
        In fine-tuning, the file with the weights of a model that is named.
    norms : str
        In fine-tuning, whether BatchNorms that are not frozen use the batch's statistics, "train",
        or the running ones, "frozen".
    head_epochs : int
        In fine-tuning, epochs in which the head is trained alone before the others.
    backbone_lr : float
        In fine-tuning, the learning rate of all but the head, in units of the head's.
    mean, std : list of float
        What samples become, ``(x - mean) / std``, instead of what `normalize` would make of them.
    normalize : bool or None
        Whether samples become ``(x - mean) / std`` of the training part; by default of tables.
    val_split : float or None
        Share of the training part to validate on. By default 0.1 where early stopping needs it,
        and none otherwise.
    augment : list of str
        Of `AUGMENTATIONS`, one after the other.
    epochs, batch_size : int
    optimizer : str
        Of `OPTIMIZERS`; SGD has a momentum of 0.9.
    lr : float or None
        Learning rate; by default 0.001, of SGD 0.05.
    final_lr : float or None
        Learning rate of the last epoch: where a schedule ends.
    schedule : str or None
        Of `SCHEDULES`; "exponential" where there is a final_lr, else "constant".
    warmup : int
        Steps in which the learning rate rises from 0.
    weight_decay : float or None
        By default the optimizer's own.
    label_smoothing : float
    class_weight : str or None
        "balanced" gives all classes the same share of the loss.
    accumulate : int
        Batches in a step.
    clip_norm : float or None
        Largest norm of a step's gradients.
    ema : float or None
        Decay of an average of the weights over the steps, in [0, 1). The averages are what the run
        ends with, with batch statistics taken anew.
    early_stopping : int or None
        Epochs without improvement after which training stops.
    max_seconds : float or None
        Time after which training stops.
    save_every : int or None
        Steps between two checkpoints, besides those after epochs.
    seed : int
        Of initial weights, order, augmentation and split.
    threads : int or None
    bn : str
        With several processes, whose rows a BatchNorm normalises by: sync, local or ghost.
    """

    model: str
    data: str
    output: str = "fastbn-run"
    target: str | None = None
    size: int | None = None
    channels: int | None = None
    freeze: str | None = None
    weights: str | None = None
    norms: str = "frozen"
    head_epochs: int = 0
    backbone_lr: float = 0.1
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    normalize: bool | None = None
    val_split: float | None = None
    augment: list[str] = field(default_factory=list)
    epochs: int = 3
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float | None = None
    final_lr: float | None = None
    schedule: str | None = None
    warmup: int = 0
    weight_decay: float | None = None
    label_smoothing: float = 0.0
    class_weight: str | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    early_stopping: int | None = None
    max_seconds: float | None = None
    save_every: int | None = None
    seed: int = 0
    threads: int | None = None
    bn: str = "sync"
    set: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule is not None:
            _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("bn", self.bn, BN_MODES)
        for name in self.augment:
            _one_of("augment", name, AUGMENTATIONS)
        if self.class_weight is not None:
            _one_of("class_weight", self.class_weight, ("balanced",))
        _one_of("norms", self.norms, NORM_MODES)
        if self.freeze is not None and not self.freeze.isdecimal():
            _one_of("freeze", self.freeze, ("backbone", "none"))
        if self.freeze is None and (self.weights is not None or self.head_epochs):
            raise ValueError("weights and head_epochs are for fine-tuning, which has freeze")
        if len(self.mean) != len(self.std) or any(not value > 0.0 for value in self.std):
            raise ValueError(
                f"mean and std should be as many numbers, std above 0, got {self.mean}, {self.std}"
            )
        if not 0.0 <= self.backbone_lr <= 1.0:
            raise ValueError(f"backbone_lr should be in [0, 1], got {self.backbone_lr}")
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("warmup", 0),
            ("head_epochs", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} should be at least {least}, got {getattr(self, name)}")
        for name in ("early_stopping", "save_every", "threads", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} should be at least 1, got {value}")
        if self.val_split is not None and not 0.0 <= self.val_split < 1.0:
            raise ValueError(f"val_split should be in [0, 1), got {self.val_split}")
        if self.ema is not None and not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema should be in [0, 1), got {self.ema}")


def from_values(values: Mapping[str, Any], where: str) -> Config:
    """Return the arguments of a mapping.

    Parameters
    ----------
    values : mapping
        By the names of `Config`.
    where : str
        What messages call the source.

    Raises
    ------
    ValueError
        If a name is unknown (the message has the nearest one), a value of a wrong type or out of
        range, or model or data are missing.

    Examples
    --------
    >>> from_values({"model": "mlp", "data": "digits", "epocs": 3}, "config.toml")
    Traceback (most recent call last):
    ValueError: config.toml: there is no 'epocs'; did you mean 'epochs'?
    """
    kinds = {entry.name: str(entry.type) for entry in fields(Config)}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{where}: {no_such(name, kinds)}")
        if not _is_of(value, kinds[name]):
            raise ValueError(f"{where}: {name} should be {_readable(kinds[name])}, got {value!r}")
    missing = [name for name in ("model", "data") if name not in values]
    if missing:
        raise ValueError(f"{where}: {' and '.join(missing)} missing")
    try:
        return Config(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def rooted(config: Config) -> Config:
    """Return the arguments with whole paths of what is read: a run continues from any folder."""
    names = {"data": config.data, "weights": config.weights}
    if config.model.endswith((".onnx", ".safetensors")):
        names["model"] = config.model
    whole: dict[str, Any] = {
        name: str(path.absolute())
        for name, value in names.items()
        if value and value not in NAMED and (path := Path(value).expanduser()).exists()
    }
    return replace(config, **whole)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values of a TOML file.

    Raises
    ------
    ValueError
        If it is none.
    OSError
        If it cannot be read.
    """
    try:
        return tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)}: not a TOML file: {error}") from None


def text_of(config: Config) -> str:
    """Return the TOML text of all arguments; those that are None are comments."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("The arguments of a run: fastbn train config.toml does it again."))
    values = asdict(config)
    table = values.pop("set")
    for name, value in values.items():
        if value is None:
            document.add(tomlkit.comment(f"{name} = by default"))
        else:
            document.add(name, value)
    if table:
        document.add("set", tomlkit.item(table))
    return tomlkit.dumps(document)


def assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of arguments like ``hidden=256,128``.

    Examples
    --------
    >>> assignments(["hidden=256,128", "depth=3", "rate=1e-3", "bias=false", "kind=wide"])
    {'hidden': [256, 128], 'depth': 3, 'rate': 0.001, 'bias': False, 'kind': 'wide'}
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise ValueError(f"expected NAME=VALUE, got {text!r}")
        values[name.strip()] = _value(value.strip())
    return values


def _value(text: str) -> Any:
    if "," in text and not text.startswith("["):
        return [_value(part.strip()) for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def no_such(name: str, known: Iterable[str]) -> str:
    """Say that there is no such name, and which is nearest.

    Examples
    --------
    >>> no_such("hiden", ["hidden", "classes"])
    "there is no 'hiden'; did you mean 'hidden'?"
    >>> no_such("x", ["hidden", "classes"])
    "there is no 'x'; there are hidden, classes"
    """
    known = list(known)
    nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    if nearest:
        return f"there is no {name!r}; did you mean {nearest[0]!r}?"
    return f"there is no {name!r}; there are {', '.join(known)}"


def with_changes(config: Config, **changes: Any) -> Config:
    """Return the arguments with those changed that are not None."""
    return replace(config, **{name: v for name, v in changes.items() if v is not None})


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {no_such(value, known)}")


def _is_of(value: Any, kind: str) -> bool:
    """Tell whether a value of TOML's is what an annotation says."""
    kind = kind.removesuffix(" | None")
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "list[str]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind == "list[float]":
        return isinstance(value, list) and all(_is_of(item, "float") for item in value)
    if kind.startswith("dict"):
        return isinstance(value, dict)
    return type(value).__name__ == kind


def _readable(kind: str) -> str:
    return (
        {
            "list[str]": "a list of texts",
            "list[float]": "a list of numbers",
            "str": "a text",
            "bool": "true or false",
        }.get(kind.removesuffix(" | None"), f"a {kind.removesuffix(' | None')}")
        .replace("a int", "a whole number")
        .replace("a float", "a number")
    )
