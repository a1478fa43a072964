"""A small network trained on the digits, and quiet trainers."""

from functools import cache

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from lit_robust.data import Digits
from lit_robust.nn import SmallCNN
from lit_robust.regimes import Natural

torch.set_num_threads(1)


def digits(**options):
    return Digits(**{"size": 16, "batch_size": 64, "eval_batch_size": 100, **options})


def untrained(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallCNN(size=16, width=0.25)


@cache
def _trained():
    network, data = untrained(), digits()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(3):
        loader = data.train_dataloader()
        for index in loader.order(epoch).split(64):
            x, y = loader.images.x[index].float() / 255, loader.images.y[index]
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network.eval().state_dict()


def trained():
    """Right on three images in four, and on half after a small attack."""
    network = untrained()
    network.load_state_dict(_trained())
    return network.eval()


def still(network):
    """A regime whose weights do not move."""
    return Natural(network, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))


def trainer(folder, *callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_train_batches": 2,
        "max_epochs": 1,
    }
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **options})
