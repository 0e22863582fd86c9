"""Tables: a CSV or Parquet file and the column to predict."""

from __future__ import annotations

import difflib
import gzip
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data.dataset import Dataset
from fastbn.data.split import Split, split_rows
from fastbn.files import require_file

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")
SEPARATORS = ",;\t|"
MOST_CLASSES = 20  # whole numbers of more values are amounts

log = logging.getLogger(__name__)


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table."""
    return path.name.lower().endswith(SUFFIXES)


def read_table(
    path: Path, target: str | None, *, split: Split | None = None, missing: str = "impute"
) -> Dataset:
    """Read a table; see `fastbn.data.load`."""
    from fastbn.data.columns import Columns

    if missing not in ("impute", "refuse"):
        raise ValueError(f"missing should be 'impute' or 'refuse', but got {missing!r}")
    frame = as_frame(path)
    names = list(frame.columns)
    if target is None:
        raise ValueError(
            f"{path}: name the column to predict with target=, one of {', '.join(names)}"
        )
    if target not in names:
        near = difflib.get_close_matches(target, names, 1)
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


def as_frame(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]] | str | os.PathLike[str],
) -> pd.DataFrame:
    """Return rows as a data frame, read from a file where they are one.

    Raises
    ------
    ValueError
        If the file is no table, or has no rows or two columns of one name.
    OSError
        If it cannot be read.
    ImportError
        If pandas, or pyarrow for Parquet, is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError('Tables are read by pandas: pip install "fastbn[tables]"') from error
    name = ""
    if isinstance(rows, str | os.PathLike):
        path = require_file(Path(rows).expanduser())
        name = f"{path}: "
        try:
            parquet = path.suffix.lower() in (".parquet", ".pq")
            frame = pd.read_parquet(path) if parquet else pd.read_csv(path, sep=_separator(path))
        except ImportError as error:
            raise ImportError('Parquet is read by pyarrow: pip install "fastbn[tables]"') from error
        except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            # the parsers' own errors are ValueErrors
            raise ValueError(f"{path}: no table that can be read: {error}") from None
    else:
        frame = pd.DataFrame(rows)
    if frame.empty:
        raise ValueError(f"{name}the table has no rows")
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    twice = frame.columns[frame.columns.duplicated()].unique()
    if len(twice):
        raise ValueError(f"{name}several columns have the name {', '.join(twice)}")
    return frame


def _separator(path: Path) -> str:
    """Return what separates the names in the first line."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as stream:
        line = stream.readline(1 << 16).decode("utf-8", "replace")
    return max(SEPARATORS, key=line.count)


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
