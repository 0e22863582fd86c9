"""Run an experiment into a folder. What has been measured there is not measured again."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastbn.experiments import pages
from fastbn.experiments.experiment import Experiment, Measurements, Results
from fastbn.experiments.registry import NAMES, get
from fastbn.train import plot
from fastbn.train.report import finite, write_report

SETTINGS, RESULT, RUNS = "settings.json", "result.json", "runs"
SEEDS = 3

Say = Callable[[str], None]


def reproduce(
    name: str,
    output: str | os.PathLike[str],
    *,
    data: Sequence[str] = (),
    seeds: int = SEEDS,
    quick: bool = False,
    environment: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Run an experiment, judge what the literature claims, and write both into a folder.

    Parameters
    ----------
    name : str
        One of `fastbn.experiments.NAMES`.
    output : path
        A folder: ``result.json``, plots where matplotlib is installed, ``index.html``,
        ``README.md``, and in ``runs/`` what every network measured with every seed, which is kept
        when the same experiment comes again.
    data : sequence of str, optional
        Other data than the experiment's own, as `fastbn.data.load` takes them.
    seeds : int
        From 0 on.
    quick : bool
        Whether small settings will do, of some ten seconds.
    environment : mapping, optional
        What the result says of the machine.
    say : callable, optional
        Gets a line for every network and seed.

    Returns
    -------
    dict
        What ``result.json`` contains.

    Raises
    ------
    ValueError
        If there is no such experiment, or it takes no data.
    FileExistsError
        If the folder holds another experiment, or the same with other settings.
    OSError
        If data are missing or files cannot be written.
    """
    experiment = get(name)
    settings = _settings(experiment, data, quick)
    if seeds < 1:
        raise ValueError(f"seeds should be a positive integer, got {seeds}")
    folder = Path(output)
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    _keep_settings(folder, experiment, settings)
    runs: dict[str, list[Measurements]] = {}
    seconds = 0.0
    for network in experiment.networks(settings):
        runs[network] = []
        for seed in range(seeds):
            run = _run(folder, experiment, settings, network, seed)
            say(f"{name}: {network}, seed {seed}: {run['seconds']:.1f} s")
            seconds += run["seconds"]
            runs[network].append(run["measured"])
    results = Results(settings, runs)
    claims = [asdict(claim) for claim in experiment.judge(results)]
    drawn = _draw(experiment, results, folder)
    told: dict[str, Any] = {
        "experiment": name,
        "title": experiment.title,
        "text": experiment.text,
        "command": _command(name, data, seeds, quick),
        "settings": asdict(settings),
        "seeds": list(range(seeds)),
        "quick": quick,
        "seconds": seconds,
        "claims": claims,
        "numbers": {
            network: {
                key: {"mean": spread.mean, "std": spread.std, "values": list(spread.values)}
                for key, spread in numbers.items()
            }
            for network, numbers in results.numbers().items()
        },
        "plots": drawn,
        "environment": dict(environment or {}),
    }
    told = finite(told)
    write_report(folder / RESULT, told)
    pages.write(folder, told)
    return told


def reproduce_all(
    output: str | os.PathLike[str],
    *,
    data: Sequence[str] = (),
    say: Say = lambda line: None,
    **options: Any,
) -> dict[str, str]:
    """Run all experiments, each into a folder of its own, and write one page of all claims.

    Parameters
    ----------
    output : path
    data : sequence of str, optional
        For the experiments that take data.
    say, **options
        As of `reproduce`.

    Returns
    -------
    dict
        Of the experiments that could not run, for want of data or of a package: why.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    told, missing = [], {}
    for name in NAMES:
        takes = data if hasattr(get(name).full, "data") else ()
        try:
            told.append(reproduce(name, folder / name, data=takes, say=say, **options))
        except (FileNotFoundError, ImportError) as error:
            missing[name] = str(error)
            say(f"{name}: {error}")
        pages.write_index(folder, told, missing)
    return missing


def _settings(experiment: Experiment, data: Sequence[str], quick: bool) -> Any:
    settings = experiment.quick if quick else experiment.full
    if not data:
        return settings
    if not hasattr(settings, "data"):
        raise ValueError(f"{experiment.name} makes its own data: leave --data out")
    return replace(settings, data=tuple(data))


def _keep_settings(folder: Path, experiment: Experiment, settings: Any) -> None:
    """Note what a folder's measurements are of, or raise FileExistsError if it is of others."""
    now = _through_json({"experiment": experiment.name, "settings": asdict(settings)})
    path = folder / SETTINGS
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != now:
            raise FileExistsError(
                f"{folder} holds measurements with other settings: remove it, or name another "
                "--output"
            )
    elif any((folder / RUNS).iterdir()) or (folder / RESULT).exists():
        raise FileExistsError(f"{folder} holds something else: name another --output")
    else:
        write_report(path, now)


def _run(
    folder: Path, experiment: Experiment, settings: Any, network: str, seed: int
) -> dict[str, Any]:
    """Measure, or read what was measured."""
    path = folder / RUNS / f"{_as_file_name(network)}-{seed}.json"
    if not path.exists():
        begin = time.perf_counter()
        measured = experiment.measure(settings, network, seed)
        seconds = time.perf_counter() - begin
        run = {"network": network, "seed": seed, "seconds": seconds, "measured": measured}
        write_report(path, _plain(run))
    # Read again, so that a first look and a later one see the same.
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _draw(experiment: Experiment, results: Results, folder: Path) -> dict[str, str]:
    """Return the files of the plots by their names; none without matplotlib."""
    if not plot.available():
        return {}
    from fastbn.experiments import plots

    return {name: plots.save(drawn, folder, name) for name, drawn in experiment.draw(results)}


def _plain(value: Any) -> Any:
    """Return a value of JSON's types: arrays become lists, NumPy's numbers Python's."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _as_file_name(network: str) -> str:
    """Return a name without what file systems dislike.

    >>> _as_file_name("BN, weights × 0.1")
    'BN,-weights-×-0.1'
    """
    return re.sub(r'[\s/\\:*?"<>|]+', "-", network)


def _command(name: str, data: Sequence[str], seeds: int, quick: bool) -> str:
    words = ["fastbn reproduce", name, *(f"--data {each}" for each in data), f"--seeds {seeds}"]
    return " ".join([*words, *(["--quick"] if quick else []), f"--output {name}"])
