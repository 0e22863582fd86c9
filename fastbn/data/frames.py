"""Rows of named columns as a data frame, from memory, CSV or Parquet."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastbn.files import require_file

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = ",;\t|"


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
        from pandas.api.types import infer_dtype
    except ImportError as error:
        raise ImportError('Tables are read by pandas: pip install "fastbn[tables]"') from error
    name = ""
    if isinstance(rows, str | os.PathLike):
        path = require_file(Path(rows).expanduser())
        name = f"{path}: "
        try:
            parquet = path.suffix.lower() in (".parquet", ".pq")
            frame = pd.read_parquet(path) if parquet else _read_csv(path)
        except ImportError as error:
            raise ImportError('Parquet is read by pyarrow: pip install "fastbn[tables]"') from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: no table that can be read: its text is not UTF-8 ({error.reason} at byte "
                f"{error.start}); save it as CSV in UTF-8"
            ) from None
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
    # Decimals, and whole numbers beyond 64 bits, come as objects.
    objects = {
        name: column.astype(float)
        for name, column in frame.items()
        if column.dtype == object and infer_dtype(column, skipna=True) in ("decimal", "integer")
    }
    return frame.assign(**objects) if objects else frame


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a table of text; in files with semicolons, a comma may stand in numbers."""
    import pandas as pd

    separator = _separator(path)
    frame = pd.read_csv(path, sep=separator)
    if separator == ";":
        for name, column in frame.items():
            if pd.api.types.infer_dtype(column, skipna=True) == "string":
                words = column.str.replace(",", ".", regex=False)
                numbers = pd.to_numeric(words, errors="coerce")
                if numbers.notna().equals(column.notna()):
                    frame[name] = numbers
    return frame


def _separator(path: Path) -> str:
    """Return what separates the names in the first line."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as stream:
        line = stream.readline(1 << 16).decode("utf-8", "replace")
    return max(SEPARATORS, key=line.count)
