"""Tables: a CSV or Parquet file and the column to predict."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data.columns import Columns
from fastbn.data.dataset import Dataset
from fastbn.data.frames import as_frame
from fastbn.data.split import Split, split_rows

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
MOST_CLASSES = 20  # whole numbers of more values are amounts

log = logging.getLogger(__name__)


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table."""
    return path.name.lower().endswith(SUFFIXES)


def read_table(
    path: Path, target: str | None, *, split: Split | None = None, missing: str = "impute"
) -> Dataset:
    """Read a table; see `fastbn.data.load`."""
    if missing not in ("impute", "refuse"):
        raise ValueError(f"missing should be 'impute' or 'refuse', but got {missing!r}")
    frame = as_frame(path)
    names = list(frame.columns)
    if target is None:
        raise ValueError(
            f"{path}: name the column to predict with target=, one of {', '.join(names)}"
        )
    if target not in names:
        near = difflib.get_close_matches(str(target), names, 1)
        raise ValueError(
            f"{path}: has no column {target!r}"
            + (f", did you mean {near[0]!r}?" if near else f": it has {', '.join(names)}")
        )
    frame = _without_gaps(frame, target, path, missing)
    y, classes = _targets(frame[target], path)
    rows = frame.drop(columns=target)
    fraction, seed = split or Split()
    train, test = split_rows(y, fraction, seed, stratify=bool(classes))
    try:
        columns = Columns.fit(rows.iloc[train])
        x = columns.apply(rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if columns.left_out:
        log.warning(
            "%s: columns left out, empty or with another word in every row: %s",
            path,
            ", ".join(columns.left_out),
        )
    return Dataset(x[train], y[train], x[test], y[test], classes, path.name, columns=columns)


def _without_gaps(frame: pd.DataFrame, target: str, path: Path, missing: str) -> pd.DataFrame:
    """Drop rows without a target, and say what is missing; or refuse."""
    gaps = frame.isna().sum()
    found = ", ".join(f"{name} ({count})" for name, count in gaps[gaps > 0].items())
    if not found:
        return frame
    if missing == "refuse":
        raise ValueError(
            f"{path}: values are missing in {found}; missing='impute' fills numbers with the "
            "median of the training part"
        )
    log.warning("%s: missing values are filled, rows without target dropped: %s", path, found)
    if gaps[target]:
        frame = frame[frame[target].notna()]
        if not len(frame):
            raise ValueError(f"{path}: column {target!r} is empty")
        # Beside a gap, pandas reads whole numbers as floats.
        frame = frame.assign(**{target: frame[target].convert_dtypes()})
    return frame


def _targets(column: pd.Series[Any], path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return labels and names of classes, or numbers ``(N, 1)`` and none.

    Words, truth values and whole numbers of at most 20 values are classes.
    """
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

    values = column.to_numpy()
    if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        numbers = column.to_numpy(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{path}: column {column.name!r}: a target is not finite")
        whole = is_integer_dtype(column.dtype) and column.nunique() <= MOST_CLASSES
        if not whole:
            return numbers.astype(np.float32)[:, None], ()
        found, labels = np.unique(values, return_inverse=True)
    else:
        found, labels = np.unique(values.astype(str), return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"{path}: column {column.name!r} has a single class, {found[0]}")
    return labels.astype(np.int64), tuple(map(str, found))
