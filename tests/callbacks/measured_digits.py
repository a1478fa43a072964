"""Measurements on the digits: by a trainer, and dealt to several processes without starting any."""

import json

import pyarrow.parquet as pq
import torch
from digit_runs import digits, still, trained, trainer
from torch import nn

from lit_robust import sampling
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.store import PartStore
from lit_robust.sampling import Noise


def measured(folder, measurement, network=None, data=None, **options):
    """The results and the columns that a test with a measurement leaves in its folder."""
    folder.mkdir(exist_ok=True)
    measurement.provenance = {"run": "runs/here/1"}
    run = trainer(folder, measurement, **options)
    run.test(still(network or trained()), datamodule=data or digits(), verbose=False)
    assert sorted(p.name for p in folder.iterdir()) == [
        f"{measurement.name}.{end}" for end in ("json", "parquet", "png")
    ]
    assert (folder / f"{measurement.name}.png").stat().st_size > 5000
    results = json.loads((folder / f"{measurement.name}.json").read_text())
    return results, arrays(pq.read_table(folder / f"{measurement.name}.parquet"))


def dealt(folder, measurement, network=None, data=None, processes=2):
    """The figures of several processes, the last of which is the first to write."""
    network, data = network or trained(), data or digits()
    measurement.check(network, data)
    store = PartStore(folder / "dealt.parquet")
    for rank in reversed(range(processes)):
        blocks = list(range(0, 360, data.eval_batch_size))[rank::processes]
        for start in blocks:
            given = block(network, data, start, seed=measurement.seed)
            store.write_columns(start // data.eval_batch_size, measurement.measure(given))
    columns = arrays(store.merge())
    return json.loads(json.dumps(measurement.summarise(columns))), columns


def block(network, data, start=0, rows=None, seed=0):
    """The block of the test set that begins at a position, or any rows of the test set."""
    images = data.images(train=False)
    rows = torch.arange(start, min(start + data.eval_batch_size, len(images))) if rows is None else torch.tensor(rows)
    noise = Noise(sampling.keys(rows, seed=seed))
    return FullBlock(network, images.x[rows].float() / 255, images.y[rows], rows, noise, data.eval_batch_size)


def arrays(table):
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


class Chain(nn.Module):
    """Convolutions defined in another order than they run in, one that never runs, and a linear layer."""

    def __init__(self, first=3, second=4, classes=10):
        super().__init__()
        self.idle = nn.Conv2d(1, 2, 1)
        self.late = nn.Conv2d(first, second, 1, bias=False)
        self.early = nn.Conv2d(1, first, 1, bias=False)
        self.head = nn.Linear(second, classes)

    def forward(self, x):
        return self.head(self.late(self.early(x)).mean((2, 3)))
