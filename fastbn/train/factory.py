"""Build networks by name, or from a file of weights: those of `fastbn.models`, and your own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastbn import models
from fastbn.data import Normalization
from fastbn.nn import Module
from fastbn.train import targets
from fastbn.train.weights import Metadata, load, read


def factory(model: str) -> Callable[..., Module]:
    """Return what builds a network.

    Parameters
    ----------
    model : str
        A name in `fastbn.models`, or ``package.module:factory``, looked up in the current
        directory, too. A factory takes keywords ``input_shape`` (a tuple, channels-last) and
        ``classes`` (an integer), and ``rng`` (a `numpy.random.Generator`) if it likes.

    Returns
    -------
    callable
        Takes the three keywords.

    Raises
    ------
    ValueError
        If there is no such model, module or factory.
    """
    if model in models.names():
        return lambda **arguments: models.build(model, **arguments)
    module_name, colon, name = model.partition(":")
    if not colon:
        near = difflib.get_close_matches(model, models.names(), 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"There is no model {model!r}{hint}: expected {', '.join(models.names())}, or "
            "package.module:factory of a network of your own"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: nothing there hides an installed package
    try:
        own = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Cannot import the model {model!r}: {error}") from error

    def build(**arguments: Any) -> Module:
        signature = inspect.signature(own)
        if "rng" not in signature.parameters:
            arguments.pop("rng", None)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise ValueError(
                f"The model {model!r} cannot be called with {', '.join(arguments)}: {error}"
            ) from error
        net = own(**arguments)
        if not isinstance(net, Module):
            raise ValueError(
                f"{model} should return a fastbn.nn.Module, but returned {type(net).__name__}"
            )
        return net

    return build


def network(weights: str | os.PathLike[str], model: str | None = None) -> tuple[Module, Metadata]:
    """Build the network of a file and give it its weights, in inference mode.

    Where the file tells how targets were normalised, the network gives them in their own unit.

    Parameters
    ----------
    weights : path
        A file that `fastbn.train.save` wrote.
    model : str, optional
        ``package.module:factory`` of a network that is not in `fastbn.models`. A file's own word
        is not enough to import somebody's code.

    Returns
    -------
    net : Module
    metadata : Metadata
        What else the file says.

    Raises
    ------
    ValueError
        If the file is damaged, is not of this network, or tells of a network that is not in
        `fastbn.models`.
    """
    _, metadata = read(weights)
    name = metadata.model if model is None else model
    if model is None and name not in models.names():
        raise ValueError(
            f"{os.fspath(weights)}: the network was made by {name or 'an unnamed factory'}, which "
            "is not in fastbn.models: name it with --model package.module:factory"
        )
    assert name is not None
    own = None
    if name not in models.names():
        try:
            own = factory(name)(**_with_tuples(metadata))
        except ValueError as error:
            raise ValueError(f"{os.fspath(weights)}: {error}") from error
    net = load(weights, own, inference=True)
    if metadata.target_normalization:
        try:
            targets.into_unit(net, Normalization.from_dict(metadata.target_normalization))
        except ValueError as error:
            raise ValueError(f"{os.fspath(weights)}: {error}") from None
    return net, metadata


def _with_tuples(metadata: Metadata) -> dict[str, Any]:
    """Arguments of a factory; JSON has no tuples, Python's shapes are tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in metadata.arguments.items()
    }
