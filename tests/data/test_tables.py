from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn.data import Columns, load

pd = pytest.importorskip("pandas", reason="tables are read by pandas")


@pytest.fixture
def frame() -> Any:
    rng = np.random.default_rng(0)
    count = 100
    return pd.DataFrame(
        {
            "length": rng.normal(5.0, 1.0, count),
            "legs": rng.integers(0, 5, count),
            "wild": rng.random(count) < 0.5,
            "colour": rng.choice(["red", "green", "blue"], count),
            "kind": np.repeat(["cat", "dog", "bird", "fish"], count // 4),
            "weight": rng.normal(70.0, 10.0, count),
        }
    )


def write(frame: Any, path: Path) -> Path:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet"])
def test_classes(tmp_path: Path, frame: Any, name: str) -> None:
    data = load(write(frame, tmp_path / name), target="kind")
    assert data.classes == ("bird", "cat", "dog", "fish")
    assert data.outputs == 4
    assert data.columns is not None
    assert data.columns.names == (
        "length",
        "legs",
        "wild",
        "weight",
        "colour=blue",
        "colour=green",
        "colour=red",
    )
    assert data.input_shape == (7,)
    assert np.bincount(data.y_test).tolist() == [5] * 4
    assert (data.x_train.dtype, data.y_train.dtype) == (np.float32, np.int64)
    assert repr(data) == f"Dataset({name}: 80 training and 20 test rows of 7, 4 classes)"
    # every row as it was: found again by its length
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    order = np.argsort(x[:, 0])
    expected = frame.sort_values("length")
    np.testing.assert_allclose(x[order, 0], expected["length"], rtol=1e-6)
    np.testing.assert_array_equal(x[order, 1], expected["legs"])
    np.testing.assert_array_equal(x[order, 2], expected["wild"])
    np.testing.assert_array_equal(x[order, 6], expected["colour"] == "red")
    assert [data.classes[label] for label in y[order]] == expected["kind"].tolist()


def test_numbers(tmp_path: Path, frame: Any) -> None:
    data = load(write(frame, tmp_path / "a.csv"), target="weight", split=(0.3, 7))
    assert data.classes == ()
    assert (data.y_train.dtype, data.y_train.shape, data.y_test.shape) == (
        np.float32,
        (70, 1),
        (30, 1),
    )
    assert data.outputs == 1


def test_what_counts_as_a_class(tmp_path: Path, frame: Any) -> None:
    frame["many"] = np.arange(100)
    path = write(frame, tmp_path / "a.csv")
    assert load(path, target="legs").classes == ("0", "1", "2", "3", "4")
    assert load(path, target="wild").classes == ("False", "True")
    assert load(path, target="many").classes == ()


def test_other_separators(tmp_path: Path, frame: Any) -> None:
    for separator in ";|":
        frame.to_csv(tmp_path / "a.csv", index=False, sep=separator)
        assert load(tmp_path / "a.csv", target="kind").input_shape == (7,)


def test_numbers_with_a_comma(tmp_path: Path, frame: Any) -> None:
    path = tmp_path / "europe.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",")
    there = load(path, target="kind")
    here = load(write(frame, tmp_path / "table.csv"), target="kind")
    np.testing.assert_allclose(there.x_train, here.x_train, rtol=1e-6)
    assert there.columns is not None
    assert {"length", "legs", "weight"} <= there.columns.numbers.keys()


@pytest.mark.parametrize("big", [False, True])
def test_numbers_that_come_as_objects(tmp_path: Path, frame: Any, big: bool) -> None:
    path = tmp_path / "table.csv"
    if big:
        frame["length"] = [2**70 + n for n in range(len(frame))]
    else:
        path = path.with_suffix(".parquet")
        frame["length"] = [Decimal(str(round(x, 3))) for x in frame["length"]]
    data = load(write(frame, path), target="kind")
    assert data.columns is not None
    assert "length" in data.columns.numbers
    values = np.concatenate([data.x_train[:, 0], data.x_test[:, 0]])
    assert np.array_equal(np.sort(values), np.sort(frame["length"].astype(np.float32)))


def test_what_is_fitted_is_fitted_on_the_training_part(tmp_path: Path, frame: Any) -> None:
    path = write(frame, tmp_path / "a.csv")
    test_lengths = np.asarray(load(path, target="kind").x_test)[:, 0]
    testing = frame["length"].astype(np.float32).isin(test_lengths)
    assert testing.sum() == 20
    frame.loc[testing, "weight"] = 1e6
    frame.loc[testing, "colour"] = "seen in the test part only"
    frame.loc[frame.index[~testing][:5], "weight"] = np.nan
    data = load(write(frame, path), target="kind")
    assert data.columns is not None
    assert data.columns.words == {"colour": ("blue", "green", "red")}
    assert data.columns.numbers["weight"] == frame.loc[~testing, "weight"].median()
    assert (np.asarray(data.x_test)[:, 4:] == 0).all()
    normalized = data.normalized()
    assert normalized.normalization is not None
    assert abs(np.asarray(normalized.x_train).mean(axis=0)).max() < 1e-5
    assert normalized.normalization.mean[3] < 100


def test_new_rows(tmp_path: Path, frame: Any) -> None:
    data = load(write(frame, tmp_path / "a.csv"), target="kind")
    assert data.columns is not None
    columns = Columns.from_dict(json.loads(json.dumps(data.columns.as_dict())))
    assert columns == data.columns
    row = {"legs": 4, "length": "2.5", "wild": True, "colour": "violet", "other": "?"}
    x = columns.apply([{**row, "weight": None}])
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [[2.5, 4, 1, data.columns.numbers["weight"], 0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(
        columns.apply(tmp_path / "a.csv"), columns.apply(frame.drop(columns="kind"))
    )
    with pytest.raises(ValueError, match="no columns weight; they have legs, length"):
        columns.apply([row])
    with pytest.raises(ValueError, match="Column weight: expected numbers, got 'heavy' in row 1"):
        columns.apply([{**row, "weight": 3}, {**row, "weight": "heavy"}])
    with pytest.raises(ValueError, match="Column weight: inf in row 0 is not finite"):
        columns.apply([{**row, "weight": np.inf}])
    with pytest.raises(ValueError, match="description of a table's columns"):
        Columns.from_dict({"numbers": [1]})


def test_missing_values(tmp_path: Path, frame: Any, caplog: pytest.LogCaptureFixture) -> None:
    frame.loc[3:5, "length"] = np.nan
    frame.loc[9, "colour"] = None
    frame.loc[[1, 50], "kind"] = None
    path = write(frame, tmp_path / "a.csv")
    with caplog.at_level(logging.WARNING, "fastbn"):
        data = load(path, target="kind")
    assert len(data.x_train) + len(data.x_test) == 98
    assert np.isfinite(np.asarray(data.x_train)).all()
    assert "length (3), colour (1), kind (2)" in caplog.text
    with pytest.raises(
        ValueError, match=r"a.csv: values are missing in length \(3\), colour \(1\)"
    ):
        load(path, target="kind", missing="refuse")
    with pytest.raises(ValueError, match="missing should be 'impute' or 'refuse', but got 'no'"):
        load(path, target="kind", missing="no")


def test_labels_beside_a_gap_stay_whole(tmp_path: Path, frame: Any) -> None:
    frame.loc[7, "legs"] = np.nan
    data = load(write(frame, tmp_path / "a.csv"), target="legs")
    assert data.classes == ("0", "1", "2", "3", "4")


def test_columns_without_use(tmp_path: Path, frame: Any, caplog: pytest.LogCaptureFixture) -> None:
    frame["name"] = [f"animal {number}" for number in range(100)]
    frame["empty"] = np.nan
    frame["city"] = [f"city {number % 90}" for number in range(100)]
    data = load(write(frame, tmp_path / "a.csv"), target="kind")
    assert data.columns is not None
    assert data.columns.left_out == ("name", "empty")
    assert len(data.columns.words["city"]) == 64
    assert "name, empty" in caplog.text


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ("a,b\n1,2\n3,4\n", None, r"name the column to predict with target=, one of a, b"),
        ("length,b\n1,2\n3,4\n", "lenght", r"no column 'lenght', did you mean 'length'\?"),
        ("a,b\n1,2\n3,4\n", 1, "no column 1: it has a, b"),
        ("a,b\n1,2\n3,4\n", "xyz", "no column 'xyz': it has a, b"),
        ("", "a", "no table that can be read"),
        ("a,b\n", "a", "the table has no rows"),
        ('a,b\n1,"2\n', "a", "no table that can be read"),
        ("a,b\n1,x\n3,x\n4,x\n", "b", "column 'b' has a single class, x"),
        ("a\n1\n2\n1\n", "a", "no column to learn from"),
        ("a,b\n1,inf\n2,3\n4,0.5\n", "b", "column 'b': a target is not finite"),
        ("a,b\n,1\n,2\n", "a", "column 'a' is empty"),
    ],
)
def test_tables_that_do_not_do(tmp_path: Path, content: str, target: Any, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.csv", target=target, split=0.5)


def test_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing.csv: no such file"):
        load(tmp_path / "nothing.csv", target="a")
    for name in ("a.parquet", "a.csv.gz"):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(ValueError, match=f"{name}: no table that can be read"):
            load(tmp_path / name, target="a")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\nä,1\nö,2\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"a.csv: .* not UTF-8 .*; save it as CSV in UTF-8"):
        load(tmp_path / "a.csv", target="b")


def test_arguments_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not take size, channels"):
        load(tmp_path / "a.csv", size=3, channels=1, target="a")
