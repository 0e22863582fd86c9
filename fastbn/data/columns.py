"""How rows of a table become numbers: fitted on the training part, kept for new rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fastbn.data.frames import as_frame

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 64


@dataclass(frozen=True)
class Columns:
    """Columns of a table, and what is done to them.

    A column of numbers stays one, missing values are filled. A column of words becomes one column
    of 0 and 1 for each of its categories; a word that training did not have, and a missing one,
    is 0 in all of them.

    Attributes
    ----------
    numbers : dict of str to float
        Columns of numbers, and what fills them: the median of the training part.
    words : dict of str to tuple of str
        Columns of words, and their categories, the most frequent ones where there are more than
        64, in alphabetical order.
    left_out : tuple of str
        Columns of words that are all different: names and such.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"size": [1.0, 3.0, None, 2.0], "colour": ["red", "blue", "red", None]})
    >>> columns = Columns.fit(rows)
    >>> columns.names
    ('size', 'colour=blue', 'colour=red')
    >>> columns.apply(rows)
    array([[1., 0., 1.],
           [3., 1., 0.],
           [2., 0., 1.],
           [2., 0., 0.]], dtype=float32)
    """

    numbers: dict[str, float]
    words: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()

    @classmethod
    def fit(cls, rows: pd.DataFrame) -> Self:
        """Look at the rows of the training part.

        Parameters
        ----------
        rows : pandas.DataFrame
            Without the target.

        Raises
        ------
        ValueError
            If there is nothing to learn from, or a number is infinite.
        """
        from pandas.api.types import is_numeric_dtype

        numbers: dict[str, float] = {}
        words: dict[str, tuple[str, ...]] = {}
        left_out: list[str] = []
        for name, column in rows.items():
            present = column.dropna()
            if not len(present):
                left_out.append(str(name))
            elif is_numeric_dtype(column.dtype):
                numbers[str(name)] = float(np.median(_finite(present, str(name))))
            else:
                counts = present.astype(str).value_counts()
                if len(counts) == len(present) > MOST_CATEGORIES:
                    left_out.append(str(name))
                else:
                    words[str(name)] = tuple(sorted(counts.index[:MOST_CATEGORIES]))
        if not numbers and not words:
            raise ValueError("There is no column to learn from beside the target")
        return cls(numbers, words, tuple(left_out))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `apply`, in their order."""
        categories = (f"{name}={word}" for name, words in self.words.items() for word in words)
        return (*self.numbers, *categories)

    def apply(
        self, rows: pd.DataFrame | Sequence[Mapping[str, Any]] | str | os.PathLike[str]
    ) -> NDArray[np.float32]:
        """Return rows as numbers, in the order of the columns that were fitted.

        Parameters
        ----------
        rows : pandas.DataFrame, list of dict, or path of a CSV or Parquet file
            Further columns, such as the target, are not looked at.

        Returns
        -------
        ndarray of float32, shape (N, len(names))

        Raises
        ------
        ValueError
            If a column is missing, or one of numbers holds words or what is infinite.
        """
        import pandas as pd

        frame = as_frame(rows)
        missing = [name for name in (*self.numbers, *self.words) if name not in frame.columns]
        if missing:
            raise ValueError(
                f"The rows have no columns {', '.join(missing)}; they have "
                f"{', '.join(map(str, frame.columns))}"
            )
        result = np.zeros((len(frame), len(self.names)), np.float32)
        for index, (name, fill) in enumerate(self.numbers.items()):
            column = pd.to_numeric(frame[name], errors="coerce")
            wrong = np.flatnonzero(column.isna() & frame[name].notna())
            if wrong.size:
                raise ValueError(
                    f"Column {name}: expected numbers, got {frame[name].iloc[wrong[0]]!r} in row "
                    f"{wrong[0]}"
                )
            result[:, index] = _finite(column.fillna(fill), name)
        index = len(self.numbers)
        for name, words in self.words.items():
            column = frame[name].astype(str).where(frame[name].notna())
            for word in words:
                result[:, index] = column == word
                index += 1
        return result

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON takes, for the metadata of weights."""
        return {
            "numbers": self.numbers,
            "words": {name: list(words) for name, words in self.words.items()},
            "left_out": list(self.left_out),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `as_dict` described.

        Raises
        ------
        ValueError
            If it is not that.
        """
        try:
            numbers = {str(name): float(fill) for name, fill in values["numbers"].items()}
            words = {str(name): tuple(map(str, found)) for name, found in values["words"].items()}
            left_out = tuple(map(str, values.get("left_out", ())))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Expected the description of a table's columns: {error}") from None
        return cls(numbers, words, left_out)


def _finite(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise ValueError(f"Column {name}: {values[wrong[0]]} in row {wrong[0]} is not finite")
    return values
