"""What every measurement shares: one file of each name, no rows lost, and figures that a reader can skim."""

import errno
import json
import os

import pyarrow.parquet as pq
import pytest
from digit_runs import digits, still, trained, trainer
from matplotlib.figure import Figure

from lit_robust.callbacks import Measurement
from lit_robust.errors import UserError
from lit_robust.evaluation.store import PartStore


class Brightness(Measurement):
    """The mean of each image."""

    name = "brightness"

    def measure(self, block):
        return {"index": block.index, "mean": block.x.mean((1, 2, 3))}

    def summarise(self, columns):
        return {"values": [round(float(v), 3) for v in columns["mean"][:50]], "table": {"mean": columns["mean"].mean()}}

    @classmethod
    def draw(cls, results):
        return Figure()


def run(folder, *measurements, network=None):
    regime = still(trained() if network is None else network)
    trainer(folder, *measurements).test(regime, datamodule=digits(), verbose=False)


def test_the_files_say_what_was_measured_and_how(tmp_path):
    run(tmp_path, Brightness(seed=3))
    text = (tmp_path / "brightness.json").read_text()
    results = json.loads(text)
    assert results["measurement"].endswith("test_measurement.Brightness")
    assert results["protocol"]["samples"] == 360
    assert results["protocol"]["seed"] == 3
    assert results["table"]["mean"] == pytest.approx(
        float(digits().images(train=False).x.float().mean() / 255), abs=1e-6
    )
    assert len(text.splitlines()) < 30, "a list of numbers takes one line"


def test_two_measurements_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="would both write brightness"):
        run(tmp_path, Brightness(), Brightness(seed=1))


def test_a_lost_part_does_not_go_unnoticed(tmp_path):
    class Loses(Brightness):
        def on_test_end(self, trainer, pl_module):
            next((tmp_path / "parts" / "brightness").glob("*.parquet")).unlink()
            super().on_test_end(trainer, pl_module)

    with pytest.raises(RuntimeError, match="of 360 rows of brightness"):
        run(tmp_path, Loses())


def test_a_network_in_train_mode_is_refused(tmp_path):
    class Trains(Brightness):
        def on_test_batch_end(self, trainer, pl_module, *args, **options):
            from torch import nn

            pl_module.network = nn.Sequential(pl_module.network, nn.Dropout()).train()
            super().on_test_batch_end(trainer, pl_module, *args, **options)

    with pytest.raises(ValueError, match="eval mode"):
        run(tmp_path, Trains())


class Asked(Brightness):
    """Remembers which blocks it has measured, and may stop before one."""

    def __init__(self, stop=None):
        super().__init__()
        self.blocks, self.stop = [], stop

    def measure(self, block):
        number = int(block.index[0]) // 100
        if number == self.stop:
            raise KeyboardInterrupt
        self.blocks.append(number)
        return super().measure(block)


@pytest.mark.parametrize("goes_on", [True, False])
def test_blocks_that_are_there_are_not_measured_again_if_it_goes_on(tmp_path, goes_on):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    run(tmp_path / "whole", Brightness())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "parts", Asked(stop=2))
    again = Asked()
    again.goes_on = goes_on
    run(tmp_path / "parts", again)
    assert again.blocks == ([2, 3] if goes_on else [0, 1, 2, 3])
    for name in ("brightness.json", "brightness.parquet"):
        whole, parts = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "parts"))
        assert parts.replace(b"test_measurement.Asked", b"test_measurement.Brightness") == whole
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {
        f"brightness.{end}" for end in ("json", "parquet", "png")
    }


def test_a_full_disk_is_said_and_what_was_measured_is_kept(tmp_path, monkeypatch):
    write = pq.write_table

    def full(table, where):
        if where.stem == "000002":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(table, where)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UserError, match=r"cannot write brightness of block 2 to .*No space left on device; blocks"):
        run(tmp_path, Brightness())
    kept = [PartStore(tmp_path / "brightness.parquet").rows(block) for block in range(4)]
    assert kept == [100, 100, None, None]
