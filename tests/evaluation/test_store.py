"""Per-sample results on disk."""

import errno
import os
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from evaluated import images, network

from lit_robust.attacks import FGSM, GaussianNoise
from lit_robust.errors import UserError
from lit_robust.evaluation import SampleStore, evaluate_block
from lit_robust.evaluation.store import PartStore, writing
from lit_robust.threat import ThreatModel

ATTACKS = {"fgsm": FGSM(threat=ThreatModel("4/255")), "noise": GaussianNoise(sigma=0.1)}


@pytest.fixture(scope="module")
def results():
    model = network()
    x, y = images(model, 10, wrong_every=4)
    return [evaluate_block(model, x[r], y[r], r, ATTACKS, size=4) for r in torch.arange(10).split(4)]


def written(folder, results, order=(0, 1, 2)):
    store = SampleStore(folder)
    for block in order:
        store.write(block, results[block])
    return store


def test_a_block_is_a_part_and_all_parts_become_one_file(tmp_path, results):
    store = written(tmp_path, results)
    parts = tmp_path / "parts" / "per_sample"
    assert sorted(p.name for p in parts.iterdir()) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    store.merge()
    assert {p.name for p in tmp_path.iterdir()} == {
        "per_sample.parquet",
        "parts",
    }  # until somebody says that all is done
    store.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["per_sample.parquet"]
    store.clear()  # nothing is left to remove


def test_parts_of_others_stay(tmp_path, results):
    store, other = written(tmp_path, results), PartStore(tmp_path / "snr.parquet")
    other.write_columns(0, {"index": torch.arange(4)})
    store.clear()
    assert other.rows(0) == 4
    other.clear()
    assert not any(tmp_path.iterdir())


def test_the_columns_and_the_schema(tmp_path, results):
    written(tmp_path, results).merge()
    table = pq.read_table(tmp_path / "per_sample.parquet")
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types == {
        "index": "int64",
        "label": "int64",
        "prediction": "int64",
        "clean_margin": "double",
        "broken": "bool",
        "right": "double",
        "right_before": "double",
        "margin": "double",
        "distance": "double",
        "survives_8_bit": "bool",
        "forwards": "int64",
        "backwards": "int64",
        "attack": "string",
    }
    assert table.schema.metadata == {b"schema": b"2"}


def test_a_row_is_a_sample_under_an_attack(tmp_path, results):
    table = written(tmp_path, results).merge()
    assert table.equals(pq.read_table(tmp_path / "per_sample.parquet"))
    rows = {(row["attack"], row["index"]): row for row in table.to_pylist()}
    assert len(rows) == len(table) == 30
    for result in results:
        for name, verdict in result.verdicts.items():
            for i, index in enumerate(result.index.tolist()):
                assert rows[name, index] == {
                    "index": index,
                    "label": int(result.label[i]),
                    "prediction": int(result.prediction[i]),
                    "clean_margin": float(result.margin[i]),
                    "attack": name,
                    "broken": bool(verdict.broken[i]),
                    "right": float(verdict.right[i]),
                    "right_before": float(verdict.right_before[i]),
                    "margin": float(verdict.margin[i]),
                    "distance": float(verdict.distance[i]),
                    "survives_8_bit": bool(verdict.survives[i]),
                    "forwards": int(verdict.forwards[i]),
                    "backwards": int(verdict.backwards[i]),
                }


def test_the_file_is_by_sample_and_then_attack_whoever_wrote_first(tmp_path, results):
    table = written(tmp_path, results, order=(2, 0, 1)).merge()
    expected = [(index, name) for index in range(10) for name in ("clean", "fgsm", "noise")]
    assert list(zip(table["index"].to_pylist(), table["attack"].to_pylist(), strict=True)) == expected


def test_a_write_that_is_cut_short_leaves_the_part_that_was_there(tmp_path, results, monkeypatch):
    store = written(tmp_path, results)
    whole = (tmp_path / "parts" / "per_sample" / "000001.parquet").read_bytes()

    def half(table, where, **options):
        where.write_bytes(whole[:50])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(OSError, match="no space"):
            store.write(1, results[0])
        with pytest.raises(OSError, match="no space"):
            store.write(3, results[0])
        with pytest.raises(OSError, match="no space"):
            store.merge()
    assert (tmp_path / "parts" / "per_sample" / "000001.parquet").read_bytes() == whole
    assert not (tmp_path / "per_sample.parquet").exists()
    assert len(store.merge()) == 30  # what was written aside is not read


def test_a_block_that_runs_again_replaces_its_part(tmp_path, results):
    assert len(written(tmp_path, results, order=(0, 1, 2, 1)).merge()) == 30


def test_a_part_that_is_there_is_known_by_its_rows_and_a_broken_one_is_none(tmp_path, results):
    store = written(tmp_path, results, order=(0, 2))
    assert [store.rows(block) for block in range(4)] == [12, None, 6, None]
    part = tmp_path / "parts" / "per_sample" / "000002.parquet"
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a table" * 9):
        whole = part.read_bytes()
        part.write_bytes(damage(whole))
        assert store.rows(2) is None
        part.write_bytes(whole)
    assert store.rows(2) == 6


def test_times_and_randomness_of_all_parts_are_summed_up(tmp_path, results):
    store = written(tmp_path, [results[0], replace(results[1], random=True), results[2]])
    assert not store.random
    store.merge()
    assert store.random
    for name in ("clean", "fgsm", "noise"):
        assert store.seconds[name] == pytest.approx(sum(result.verdicts[name].seconds for result in results))


def test_a_disk_that_cannot_be_written_is_the_user_s_to_mend(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot write block 3 to .*: No space left on device; blocks .* are kept"),
        writing(tmp_path, "block 3"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
