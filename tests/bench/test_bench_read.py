"""The benchmark of reading: a few patterns, and the command."""

from __future__ import annotations

from typing import Any

import pytest

from fastbn import cli
from fastbn.bench import read


def test_patterns() -> None:
    names = ["mlp", "shared-weight-other-bn", "conv-dropout-bn", "training-mode"]
    rows = {row.name: row for row in read.bench_read(names=names)}
    assert rows.keys() == set(names)
    assert "training mode" in rows["training-mode"].failure
    for name in names[:3]:
        row = rows[name]
        assert row.error < 1e-5
        assert row.error_f64 < 1e-6
        assert row.losses[1] < row.losses[0]
        assert row.folded > 0
        assert row.left == 0
        assert not read.is_wrong(row)


def test_a_folded_file_gets_its_batch_norms_back() -> None:
    [row] = read.bench_read(names=["conv-identity-bn"])
    assert row.restored is None  # it has one
    assert read.is_wrong(read.ReadRow("a", losses=[1.0, 1.0]))
    assert read.is_wrong(read.ReadRow("a", error_f64=0.1, losses=[1.0, 0.5]))


def test_the_command(capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "read", "--models", "gemm-bn,if-branches"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "gemm-bn" in text
    assert "no layer does what If does" in text


def test_a_network_of_the_zoo() -> None:
    [row] = read.bench_read(source="zoo", names=["mlp"])
    assert row.folded == 2
    assert not read.is_wrong(row)
